"""Weights of other toolkits."""

from transformer_jax.weights.exports import export_model
from transformer_jax.weights.imports import import_model

__all__ = ["export_model", "import_model"]
