"""Weights of other toolkits."""

from transformer_jax.weights.imports import import_model

__all__ = ["import_model"]
