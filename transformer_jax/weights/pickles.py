"""Pickles of tensors, read without running anything that they name.

A pickle is a program for a stack machine. This machine knows the instructions that PyTorch's files
are made of, and a list of names, each of which makes plain data; whatever else a file asks for is
refused. Nothing is imported, and no object of the file is ever called.
"""

import mmap
import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from transformer_jax.errors import UserError

__all__ = ["PickleError", "Storage", "Tensor", "read_pickle"]


class PickleError(UserError):
    """A pickle that is damaged, or asks for what is not on the list."""


class Storage(NamedTuple):
    """Numbers that tensors are views of.

    Attributes:
        dtype: Name of the dtype, as NumPy or ml_dtypes spell it.
        key: Name within the file.
        size: How many numbers there are.
    """

    dtype: str
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage; all sizes are numbers of elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Name(NamedTuple):
    """A name on the list, which stands on the stack until it is applied."""

    spelling: str


_STORAGES = {
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch DoubleStorage": "float64",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
}
_MARK = object()
# More instructions than any model's file has; each costs about a microsecond.
_MOST_INSTRUCTIONS = 20_000_000


def read_pickle(file: IO[bytes] | mmap.mmap, name: str) -> Any:
    """Read one pickle from where a file stands.

    Args:
        file: The file, which then stands behind the pickle.
        name: What messages call it.

    Returns:
        Numbers, texts, lists, tuples and dictionaries of texts and numbers, and `Tensor`s, whose
        numbers are still in the file. An argparse.Namespace is a dictionary.

    Raises:
        PickleError: It is damaged, or holds anything else.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        readable: Any = file  # mapped memory reads as a file does
        for count, (opcode, argument, _) in enumerate(pickletools.genops(readable)):
            if count > _MOST_INSTRUCTIONS:
                raise PickleError(f"{name} is damaged: it has too many instructions")
            if opcode.name == "STOP":
                [found] = stack
                return found
            _execute(opcode.name, argument, stack, memo, name)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise PickleError(f"{name} is damaged: {error or 'it is no pickle'}") from None
    except (RecursionError, MemoryError):
        raise PickleError(f"{name} is damaged: it is nested too deeply, or too large") from None
    raise PickleError(f"{name} is damaged: it has no end")


def _execute(code: str, argument: Any, stack: list[Any], memo: dict[int, Any], name: str) -> None:
    """Carry out one instruction."""
    if code in _CONSTANTS:
        stack.append(_CONSTANTS[code]())
    elif code in _VALUES:
        stack.append(argument)
    elif code in ("PROTO", "FRAME"):
        pass
    elif code == "MARK":
        stack.append(_MARK)
    elif code in ("BINPUT", "LONG_BINPUT", "PUT"):
        memo[argument] = stack[-1]
    elif code == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif code in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(memo[argument])
    elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
        size = int(code[-1])
        if len(stack) < size:
            raise ValueError("its stack is empty")
        stack[-size:] = [tuple(stack[-size:])]
    elif code == "TUPLE":
        stack.append(tuple(_items(stack)))
    elif code in ("APPEND", "APPENDS"):
        items = [stack.pop()] if code == "APPEND" else _items(stack)
        if type(stack[-1]) is not list:
            raise ValueError("it appends to what is no list")
        stack[-1].extend(items)
    elif code in ("SETITEM", "SETITEMS"):
        items = [*(stack.pop() for _ in range(2))][::-1] if code == "SETITEM" else _items(stack)
        _set_items(stack[-1], items)
    elif code in ("GLOBAL", "STACK_GLOBAL"):
        spelling = argument if code == "GLOBAL" else " ".join([stack.pop(), stack.pop()][::-1])
        if spelling not in _STORAGES and spelling not in _MAKERS:
            raise PickleError(
                f"{name} asks for {spelling.replace(' ', '.', 1)!r:.200}, which no model's "
                "parameters need: nothing of it was run, and it is not read"
            )
        stack.append(_Name(spelling))
    elif code in ("REDUCE", "NEWOBJ"):
        arguments, made = stack.pop(), stack.pop()
        if type(made) is not _Name or type(arguments) is not tuple or made.spelling in _STORAGES:
            raise ValueError("it applies what is no name")
        stack.append(_MAKERS[made.spelling](*arguments))
    elif code == "BINPERSID":
        stack.append(_storage(stack.pop()))
    elif code == "BUILD":
        state, made = stack.pop(), stack[-1]
        if type(made) is not dict:
            raise ValueError("it sets the state of what has none")
        # That of an OrderedDict is of no use here; that of a Namespace is all that it holds.
        if isinstance(made, dict) and not made and type(state) is dict:
            _set_items(made, [part for item in state.items() for part in item])
    else:
        raise PickleError(f"{name} has the instruction {code}, which no model's parameters need")


def _items(stack: list[Any]) -> list[Any]:
    """Take everything above the last mark, and the mark."""
    for place in range(len(stack) - 1, -1, -1):
        if stack[place] is _MARK:
            found = stack[place + 1 :]
            del stack[place:]
            return found
    raise ValueError("it has no mark")


def _set_items(tree: Any, items: list[Any]) -> None:
    if type(tree) is not dict or len(items) % 2:
        raise ValueError("it sets items of what is no dictionary")
    for key, value in zip(items[::2], items[1::2]):
        if type(key) not in (str, int):
            raise ValueError(f"a key is of type {type(key).__name__}")
        tree[key] = value


def _make_dict(items: Any = ()) -> dict[Any, Any]:
    """An OrderedDict of pairs, or a Namespace, which has none."""
    tree: dict[Any, Any] = {}
    _set_items(tree, [part for pair in items for part in pair])
    return tree


def _make_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """The rest of the arguments says whether gradients are wanted."""
    numbers = [offset, *shape, *strides]
    if type(storage) is not Storage or len(shape) != len(strides):
        raise ValueError("a tensor has no storage, or other strides than axes")
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a tensor's sizes are no whole numbers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _make_parameter(tensor: Any, *_: Any) -> Tensor:
    if type(tensor) is not Tensor:
        raise ValueError("a parameter is no tensor")
    return tensor


def _storage(reference: Any) -> Storage:
    """What ("storage", type, key, device, count) refers to."""
    kind, made, key, _, count, *view = reference
    if view not in ([], [None]):
        raise ValueError("a storage is a view of another one")
    if kind != "storage" or type(made) is not _Name or type(key) is not str:
        raise ValueError("it refers to what is no storage")
    if type(count) is not int or count < 0:
        raise ValueError("a storage's size is no whole number")
    return Storage(_STORAGES[made.spelling], key, count)


_MAKERS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _make_dict,
    "argparse Namespace": _make_dict,
    "torch._utils _rebuild_tensor_v2": _make_tensor,
    "torch._utils _rebuild_tensor": _make_tensor,
    "torch._utils _rebuild_parameter": _make_parameter,
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING", "SHORT_BINSTRING",
    "STRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
