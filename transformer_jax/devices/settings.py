"""Settings of JAX under which our own code and that of the libraries beneath it run."""

import contextlib
from collections.abc import Iterator

import jax

__all__ = ["usual_settings"]


@contextlib.contextmanager
def usual_settings() -> Iterator[None]:
    """JAX's defaults within, whatever stricter ones the program around has; also a decorator.

    Optax adds numbers of two dtypes, and a key or a step number that goes to the device unasked is
    meant; neither is a fault that the caller could mend.
    """
    with jax.numpy_dtype_promotion("standard"), jax.transfer_guard("allow"):
        yield
