"""Constituency parsing: trees, their brackets, and trees as sequences."""

from transformer_jax.parsing.linearization import ORDERS, delinearize, linearize
from transformer_jax.parsing.trees import (
    Tree,
    TreeError,
    clean_tree,
    indent_brackets,
    parse_brackets,
    read_trees,
    spell,
    words,
    write_brackets,
)

__all__ = [
    "ORDERS",
    "Tree",
    "TreeError",
    "clean_tree",
    "delinearize",
    "indent_brackets",
    "linearize",
    "parse_brackets",
    "read_trees",
    "spell",
    "words",
    "write_brackets",
]
