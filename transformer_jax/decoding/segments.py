"""A search of many sentences in segments of a few steps, so that none waits for the longest.

A segment is compiled; between two of them the caches grow as far as is needed next, and the
sentences that are finished leave the batch. What is found is what `generate` finds.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from transformer_jax.decoding.beam import BeamResult
from transformer_jax.decoding.generate import make_program
from transformer_jax.decoding.options import Search
from transformer_jax.decoding.program import SearchProgram

__all__ = ["SegmentedSearch"]

# Steps of a segment; positions that a cache has at first, which are doubled when it is full; and
# sentences on a device below which a batch is not made smaller.
STEPS, CAPACITY, FEWEST = 8, 16, 4


class _Functions(NamedTuple):
    """Compiled functions of one search; rows are (limits [B], sample_ids [B, 2])."""

    start: Callable
    extend: Callable
    resize: Callable
    result: Callable


class SegmentedSearch:
    """A search with a model over batches of sources, each with rows of as many devices."""

    def __init__(
        self,
        model: nn.Module,
        search: Search,
        compiled: Callable[..., Any],
        devices: int,
    ):
        """Make the search.

        Args:
            model: A Flax module with `init_cache` and `decode_step`.
            search: The search and its options.
            compiled: compiled(function, arguments) compiles a function of variables and of arrays
                with a row for each sentence, in which no device needs another's.
            devices: Number of devices that share the rows.
        """
        self._model, self._search, self._devices = model, search, devices
        self._compiled = compiled
        self._functions = functools.lru_cache(maxsize=None)(self._make)

    def __call__(
        self, variables: Any, source: np.ndarray, limits: np.ndarray, sample_ids: np.ndarray
    ) -> BeamResult:
        """Search targets of source [B, S], with `limits` [B] and `sample_ids` [B, 2].

        Returns:
            The hypotheses of each sentence, as NumPy arrays.
        """
        width = source.shape[1]
        max_length = width + self._search.extra_length
        capacity = min(CAPACITY, max_length)
        rows: Any = (limits, sample_ids)
        state = self._functions(width, capacity).start(variables, source, *rows)
        # Sentence that each row of the state holds; -1 marks rows left over.
        sentences = np.where(limits > 0, np.arange(len(source)), -1)
        found: BeamResult | None = None
        position = 0
        while True:
            functions = self._functions(width, capacity)
            position = min(position + STEPS, capacity)
            stop = np.full(self._devices, position, np.int32)
            state, unfinished = functions.extend(variables, state, *rows, stop)
            alive = np.asarray(unfinished) & (sentences >= 0)
            is_last = position == max_length or not alive.any()
            places = self._places(alive)
            fewer = places.size < len(sentences)
            if fewer or is_last:
                part = jax.device_get(functions.result(variables, state, *rows))
                found = _put(found, part, sentences, len(source))
            if is_last:
                return found
            is_full = position == capacity
            if fewer or is_full:
                if is_full:
                    capacity = min(2 * capacity, max_length)
                if not fewer:
                    places = np.tile(np.arange(len(sentences) // self._devices), self._devices)
                resize = self._functions(width, capacity).resize
                state, rows = resize(variables, state, *rows, places.astype(np.int32))
                if fewer:
                    first = np.arange(self._devices) * (len(sentences) // self._devices)
                    chosen = np.repeat(first, len(places) // self._devices) + places
                    sentences = np.where(alive[chosen], sentences[chosen], -1)

    def _places(self, alive: np.ndarray) -> np.ndarray:
        """The rows that stay, by their number on their device: as many on each, of few numbers."""
        own = alive.reshape(self._devices, -1)
        size = own.shape[1]
        count = max(int(own.sum(axis=1).max()), min(FEWEST, size), 1)
        count = min(1 << (count - 1).bit_length(), size)
        return np.argsort(~own, axis=1, kind="stable")[:, :count].reshape(-1)

    def _make(self, width: int, capacity: int) -> _Functions:
        model, search = self._model, self._search
        max_length = width + search.extra_length

        def program(variables, cache, limits, sample_ids) -> SearchProgram:
            return make_program(model, variables, search, cache, limits, sample_ids, max_length)

        def without_rows(variables, state, count):
            """Undo `_with_rows`."""
            shapes = _cache_shapes(model, variables, count, width, search.rows, capacity)
            cache = jax.tree.map(lambda x, s: x if s.ndim else x[0], state.cache, shapes)
            return state._replace(position=state.position[0], cache=cache)

        def start(variables, source, limits, sample_ids):
            cache = _init_cache(model, variables, source, search.rows, capacity)
            state = program(variables, cache, limits, sample_ids).start(cache)
            return _with_rows(state)

        def extend(variables, state, limits, sample_ids, stop):
            state = without_rows(variables, state, len(limits))
            part = program(variables, state.cache, limits, sample_ids)
            state = part.run_to(state, stop[0])
            unfinished = part.is_unfinished(state).reshape(len(limits), -1).any(axis=1)
            return _with_rows(state), unfinished

        def resize(variables, state, limits, sample_ids, places):
            count = len(limits)
            state = without_rows(variables, state, count)
            factors = _rows_per_sentence(model, variables, width, search.rows)
            shapes = _cache_shapes(
                model, variables, len(places), width, search.rows, capacity
            )

            def chosen(leaf, factor):
                if factor == 0:
                    return leaf
                grouped = leaf.reshape(count, factor, *leaf.shape[1:])[places]
                return grouped.reshape(-1, *leaf.shape[1:])

            def grown(leaf, shape):
                room = [(0, new - old) for old, new in zip(leaf.shape, shape.shape)]
                return jnp.pad(leaf, room) if room else leaf

            cache = jax.tree.map(grown, jax.tree.map(chosen, state.cache, factors), shapes)
            rest = jax.tree.map(
                lambda leaf: chosen(leaf, leaf.shape[0] // count if leaf.ndim else 0),
                state._replace(cache=()),
            )
            return _with_rows(rest._replace(cache=cache)), (limits[places], sample_ids[places])

        def result(variables, state, limits, sample_ids):
            state = without_rows(variables, state, len(limits))
            return tuple(program(variables, state.cache, limits, sample_ids).result(state))

        return _Functions(
            self._compiled(start, 4, gathered=False),
            self._compiled(extend, 5, donate=1, gathered=(False, True)),
            self._compiled(resize, 5, gathered=False),
            self._compiled(result, 4),
        )


def _init_cache(model, variables, source, rows, capacity):
    return model.apply(variables, source, rows, capacity, method="init_cache")


def _cache_shapes(model, variables, count: int, width: int, rows: int, capacity: int):
    source = jax.ShapeDtypeStruct((count, width), jnp.int32)
    return jax.eval_shape(
        lambda variables, source: _init_cache(model, variables, source, rows, capacity),
        variables, source,
    )  # fmt: skip


def _rows_per_sentence(model, variables, width: int, rows: int):
    """How many rows each leaf of a cache has for a sentence; 0 where it has none."""
    two, three = (_cache_shapes(model, variables, count, width, rows, 1) for count in (2, 3))
    return jax.tree.map(lambda a, b: b.shape[0] - a.shape[0] if a.ndim else 0, two, three)


def _with_rows(state):
    """Scalars as arrays of one row, since each device has its own."""
    return jax.tree.map(lambda leaf: leaf[None] if leaf.ndim == 0 else leaf, state)


def _put(found, part, sentences, count: int) -> BeamResult:
    """Put the results of a batch where the sentences of its rows belong."""
    part = BeamResult(*part)
    if found is None:
        found = BeamResult(*(np.zeros((count, *field.shape[1:]), field.dtype) for field in part))
        found.scores[:] = -np.inf
    held = sentences >= 0
    for whole, own in zip(found, part):
        whole[sentences[held]] = own[held]
    return found
