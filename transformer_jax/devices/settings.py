"""JAX's default settings, under which our code and the libraries beneath it run."""

import contextlib
from collections.abc import Iterator

import jax

__all__ = ["usual_settings"]


@contextlib.contextmanager
def usual_settings() -> Iterator[None]:
    """Restore JAX's defaults within this context, whatever stricter ones the program has set.

    Optax adds numbers of two dtypes, and keys and step numbers are transferred to the device
    implicitly; the caller could repair neither. It is also a decorator.
    """
    with jax.numpy_dtype_promotion("standard"), jax.transfer_guard("allow"):
        yield
