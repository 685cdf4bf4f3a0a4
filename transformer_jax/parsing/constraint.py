"""Which symbols may follow, so that what a search writes is a tree over the sentence's words."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer_jax.errors import UserError

__all__ = ["Grammar", "GrammarState", "advance", "allowed_symbols", "make_grammar", "start_state"]

# Constituents that may be open at once; treebanks have 30.
MAX_DEPTH = 64
_NONE, _TAG, _LABEL, _CLOSE, _EOS = range(5)


class Grammar(NamedTuple):
    """What each symbol of a vocabulary of V does.

    Attributes:
        kinds: [V]: nothing, a word with its tag, the label of a constituent, its end, or the end of
            the sentence.
        labels: [V], number of the label that is opened or closed; -1 of other symbols.
        is_in_order: Whether a label follows the first part of its constituent.
    """

    kinds: tuple[int, ...]
    labels: tuple[int, ...]
    is_in_order: bool

    @property
    def is_word(self) -> tuple[bool, ...]:
        """For each symbol whether it is a word with its tag."""
        return tuple(kind == _TAG for kind in self.kinds)


class GrammarState(NamedTuple):
    """How far N rows have come.

    Attributes:
        stack: [N, MAX_DEPTH], labels of the constituents that are open, the outermost first.
        depth: [N], how many are open.
        has_part: [N], whether a part has just ended: of the innermost constituent, or of the root.
        words: [N], words that have no tag yet.
        steps: [N], symbols that may still be written, the end of the sentence included.
    """

    stack: jax.Array
    depth: jax.Array
    has_part: jax.Array
    words: jax.Array
    steps: jax.Array


def make_grammar(symbols: Sequence[str], order: str, first: int = 2, eos_id: int = 1) -> Grammar:
    """Find what the symbols of a vocabulary do: /X closes what X opens, any other is a tag.

    Args:
        symbols: Spellings of the ids from `first` on.
        order: One of `ORDERS`.
        first: Ids before those, which do nothing but that which ends a sentence.
        eos_id: The id that ends a sentence.

    Raises:
        UserError: There is no tag, so that no word could be written.
    """
    numbers = {symbol[1:]: n for n, symbol in enumerate(symbols) if _closes(symbol)}
    kinds, labels = [_NONE] * first, [-1] * first
    kinds[eos_id] = _EOS
    for symbol in symbols:
        closes = _closes(symbol)
        label = symbol[1:] if closes else symbol
        kinds.append(_CLOSE if closes else _LABEL if label in numbers else _TAG)
        labels.append(numbers.get(label, -1) if kinds[-1] != _TAG else -1)
    if _TAG not in kinds:
        raise UserError("no symbol of the vocabulary is a tag: no word could be written")
    return Grammar(tuple(kinds), tuple(labels), order == "in-order")


def _closes(symbol: str) -> bool:
    return len(symbol) > 1 and symbol.startswith("/")


def start_state(words: jax.Array, limits: jax.Array) -> GrammarState:
    """Make the state before the first symbol.

    Args:
        words: [N], words of each sentence; 1 at least.
        limits: [N], symbols that may be written, the end of the sentence included: one more than
            there are words at least.
    """
    rows = words.shape[0]
    nothing = jnp.zeros(rows, jnp.int32)
    stack = jnp.zeros((rows, MAX_DEPTH), jnp.int32)
    return GrammarState(stack, nothing, jnp.zeros(rows, bool), words, limits)


def advance(grammar: Grammar, state: GrammarState, symbols: jax.Array) -> GrammarState:
    """Read a symbol in each row; one that does nothing, as that before the first, changes nothing.

    Args:
        grammar: The grammar.
        state: The state of N rows.
        symbols: [N].
    """
    kind = jnp.asarray(grammar.kinds)[symbols]
    label = jnp.asarray(grammar.labels)[symbols]
    opens, closes, is_word = kind == _LABEL, kind == _CLOSE, kind == _TAG
    is_next = jnp.arange(MAX_DEPTH)[None] == state.depth[:, None]
    return GrammarState(
        jnp.where(opens[:, None] & is_next, label[:, None], state.stack),
        state.depth + opens.astype(jnp.int32) - closes.astype(jnp.int32),
        # In order a label takes the part before it, and nothing has ended since.
        jnp.where(kind == _NONE, state.has_part, closes | is_word),
        state.words - is_word.astype(jnp.int32),
        state.steps - (kind != _NONE).astype(jnp.int32),
    )


def allowed_symbols(grammar: Grammar, state: GrammarState) -> jax.Array:
    """Tell which symbols may come next in each row.

    Every word gets one tag, a constituent is closed by its own symbol and has a part, and whatever
    is open can still be closed within the limit. There is always one symbol that may come.

    Args:
        grammar: The grammar.
        state: The state of N rows.

    Returns:
        Boolean [N, V].

    >>> grammar = make_grammar(["NN", "NP", "/NP"], "tensor2tensor")  # of ids 2, 3 and 4
    >>> state = start_state(jnp.array([1]), jnp.array([4]))
    >>> allowed_symbols(grammar, state)[0].tolist()  # the word, or NP before it
    [False, False, True, True, False]
    >>> state = advance(grammar, state, jnp.array([3]))
    >>> allowed_symbols(grammar, state)[0].tolist()  # no NP more: it could not be closed
    [False, False, True, False, False]
    """
    stack, depth, has_part, words, steps = state
    kinds, labels = jnp.asarray(grammar.kinds)[None], jnp.asarray(grammar.labels)[None]
    innermost = jnp.take_along_axis(stack, jnp.maximum(depth - 1, 0)[:, None], axis=1)
    # A label now, and then the tags, the ends of constituents with its own, and of the sentence.
    has_room = (depth < MAX_DEPTH) & (words + depth + 3 <= steps)
    if grammar.is_in_order:
        may_open, may_close = has_part & has_room, depth > 0
    else:
        may_open, may_close = (words > 0) & has_room, (depth > 0) & has_part
    is_done = (words == 0) & (depth == 0)
    return (
        ((kinds == _TAG) & (words > 0)[:, None])
        | ((kinds == _LABEL) & may_open[:, None])
        | ((kinds == _CLOSE) & may_close[:, None] & (labels == innermost))
        | ((kinds == _EOS) & is_done[:, None])
    )
