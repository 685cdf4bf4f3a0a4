"""What users import: the list is frozen, and each name has a docstring and an entry in docs/api."""

import inspect
import re
from operator import attrgetter
from pathlib import Path

import pytest

import transformer_jax
import transformer_jax.data.vocabulary
import transformer_jax.evaluation.bleu
import transformer_jax.parsing
import transformer_jax.visualization.attention
import transformer_jax.visualization.curves
import transformer_jax.visualization.page
import transformer_jax.visualization.tree
import transformer_jax.weights
from tests.public_names import PUBLIC

API = Path(__file__).parents[1] / "docs" / "api"


def module_of(name):
    path = name.removeprefix("transformer_jax").lstrip(".")
    return attrgetter(path)(transformer_jax) if path else transformer_jax


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_frozen(name):
    assert sorted(module_of(name).__all__) == PUBLIC[name]


def undocumented(name, value):
    """Names without a docstring: of a function, or of a class and its public methods."""
    if not callable(value):
        return []
    members = inspect.getmembers(value, callable) if inspect.isclass(value) else ()
    ours = ((m, f) for m, f in members if getattr(f, "__module__", None) == value.__module__)
    parts = [(name, value.__doc__)]
    parts += [(f"{name}.{m}", inspect.getdoc(f)) for m, f in ours if not m.startswith("_")]
    # A dataclass without one is given its signature.
    return [part for part, doc in parts if not doc or doc.startswith(f"{name}(")]


def without_arguments(name, value):
    """Functions and methods of several parameters whose docstring says nothing of them."""
    found = []
    members = inspect.getmembers(value) if inspect.isclass(value) else [("", value)]
    for member, function in members:
        function = inspect.unwrap(function) if callable(function) else function
        if not inspect.isfunction(function) or member.startswith("_"):
            continue
        if member and not function.__module__.startswith("transformer_jax"):
            continue
        several = len(inspect.signature(function).parameters.keys() - {"self"}) > 1
        doc = inspect.getdoc(getattr(value, member) if member else value) or ""
        if several and "Args:" not in doc:
            found.append(f"{name}.{member}")
    return found


@pytest.mark.parametrize("find", [undocumented, without_arguments])
@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_docstrings_with_arguments(name, find):
    module = module_of(name)
    assert [each for public in PUBLIC[name] for each in find(public, getattr(module, public))] == []


def test_public_names_are_in_the_api_reference():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in API.glob("*.md"))
    entries = re.findall(r"^\.\. (?:auto\w+|py:\w+):: (\S+)", pages, re.MULTILINE)
    names = {f"{module}.{public}" for module, publics in PUBLIC.items() for public in publics}
    assert names <= set(entries), names - set(entries)
    assert len(entries) == len(set(entries))
