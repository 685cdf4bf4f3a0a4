"""What every configuration checks of its fields, and how one is read from JSON."""

import dataclasses
import math
import typing
import unicodedata
from typing import Literal

from transformer_jax.errors import MAX_INT32, UserError, did_you_mean, is_encodable

__all__ = [
    "ConfigError",
    "changed_fields",
    "check_positive",
    "check_tag",
    "check_types",
    "from_json_value",
    "require",
]


class ConfigError(UserError):
    """A configuration that cannot run: the message names the field, the value and the rule."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def check_positive(config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value is None or value > 0, f"{name} {value} must be positive")


def check_tag(name: str, tag: str | None) -> None:
    """Raise ConfigError for a tag that is not one visible word, or could be one of a text."""
    if tag is None:
        return
    visible = all(unicodedata.category(sign)[0] not in "CZ" for sign in tag)
    require(visible and tag != "", f"{name} {tag!r} must be visible characters without a space")
    require(
        not tag.isalnum() and tag not in ("<pad>", "</s>", "<unk>", "<s>"),
        f"{name} {tag!r} may be a part of text, or a special symbol: write it otherwise, as <2de>",
    )


def check_types(config) -> None:
    """Raise ConfigError unless every field has the type of its annotation."""
    for name, kind in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            require(value in choices, f"{name} {value!r} is not one of {', '.join(choices)}")
            continue
        kinds = [typing.get_origin(k) or k for k in typing.get_args(kind) or (kind,)]
        kinds = [tuple] if typing.get_origin(kind) is tuple else kinds
        if typing.get_args(kind)[1:] == (...,):
            [each, _] = typing.get_args(kind)
            fits = type(value) is tuple and all(type(part) is each for part in value)
            require(fits, f"{name} {value!r} must be a tuple of {each.__name__}")
        if type(value) is int and name != "seed":
            require(abs(value) <= MAX_INT32, f"{name} {value:.3g} is larger than {MAX_INT32}")
        if float in kinds and type(value) in (int, float):
            require(math.isfinite(value), f"{name} {value} is not finite")
            continue
        names = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
        require(type(value) in kinds, f"{name} {value!r} must be of type {names}")


def changed_fields(config) -> str:
    """Write the fields of a dataclass that are not at their defaults, as arguments of a call."""
    values = ((field, getattr(config, field.name)) for field in dataclasses.fields(config))
    return ", ".join(f"{field.name}={v!r}" for field, v in values if v != field.default)


def from_json_value(kind, tree, path):
    """Build `kind` from parsed JSON, checking types as annotations state them.

    `path` is what error messages call the place of `tree`.
    """
    where = path or "configuration"
    if dataclasses.is_dataclass(kind):
        require(isinstance(tree, dict), f"{where} must be an object, not {tree!r:.80}")
        hints = typing.get_type_hints(kind)
        for name in tree:
            require(name in hints, f"{where} has no field {name!r}; {did_you_mean(name, hints)}")
        prefix = f"{path}." if path else ""
        values = {n: from_json_value(hints[n], value, prefix + n) for n, value in tree.items()}
        return typing.cast(type, kind)(**values)
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        return None if tree is None else from_json_value(arguments[0], tree, path)
    if typing.get_origin(kind) is tuple:
        if arguments[1:] == (...,):
            require(isinstance(tree, list), f"{where} must be a list, not {tree!r:.80}")
            arguments = arguments[:1] * len(tree)
        fits = isinstance(tree, list) and len(tree) == len(arguments)
        require(fits, f"{where} must be a list of {len(arguments)}, not {tree!r:.80}")
        parts = zip(arguments, tree)
        return tuple(from_json_value(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(parts))
    if typing.get_origin(kind) is Literal:
        kind = str
    if kind is float and type(tree) is int and abs(tree) <= MAX_INT32:
        tree = float(tree)
    if type(tree) is str:
        sound = "\0" not in tree and is_encodable(tree)
        require(sound, f"{where} contains NUL or an unpaired surrogate: {tree!r:.80}")
    require(type(tree) is kind, f"{where} must be of type {kind.__name__}, not {tree!r:.80}")
    return tree
