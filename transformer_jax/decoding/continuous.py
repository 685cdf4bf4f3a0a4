"""A search of many sentences in which one that is finished makes room for the next.

The rows of a batch are filled again as they become free (continuous batching), so that no sentence
waits for the longest and few shapes are compiled. Sentences whose targets are much longer than
their sources begin again in a round of their own. What is found is what `generate` finds.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from transformer_jax.decoding.beam import BeamResult
from transformer_jax.decoding.generate import make_program
from transformer_jax.decoding.options import Search
from transformer_jax.decoding.padding import power_of_two, round_size
from transformer_jax.decoding.program import SearchProgram
from transformer_jax.decoding.threads import SharedProgram
from transformer_jax.decoding.waiting import Waiting

__all__ = ["ContinuousSearch"]

# Places for the tokens that a further hypothesis does not share with the first. (In 1,000 sentences
# with beam 5, hypotheses grew to 17 tokens and took 29 places, on average.)
OWN = 8


class _Size(NamedTuple):
    """Sizes for which a batch is compiled.

    Attributes:
        rows: Sentences on a device.
        width: Tokens of a source, padding included.
        places: Tokens of a sentence's hypotheses for which the cache has room.
    """

    rows: int
    width: int
    places: int


class ContinuousSearch:
    """A search with a model, whose batches have rows on as many devices.

    `program_count` is the number of programs compiled so far.
    """

    def __init__(
        self,
        model: nn.Module,
        search: Search,
        compiled: Callable[..., Any],
        devices: int,
        model_limit: int,
    ):
        """Make the search.

        Args:
            model: A model of a family (`models.families` says what it must have).
            search: The search and its options.
            compiled: compiled(function, arguments, gathered=, donate=) compiles a function of
                variables and of arrays with a row for each sentence, in which no device needs
                another's. Results that are `gathered` can be read everywhere; the argument `donate`
                may be overwritten.
            devices: Number of devices that share the sentences.
            model_limit: Most tokens of a source, padding included, that the model can read.
        """
        self._model, self._search, self._devices = model, search, devices
        self._compiled, self._model_limit = compiled, model_limit
        self.program_count = 0
        self._lock = threading.Lock()
        self._begin = self._cached(self._make_begin)
        self._refill = self._cached(self._make_refill)
        self._extend = self._cached(self._make_extend)
        self._resize = self._cached(self._make_resize)

    def __call__(
        self,
        variables: Any,
        sources: Sequence[Sequence[int]],
        limits: Sequence[int],
        sample_ids: np.ndarray,
        threads: int = 1,
    ) -> Iterator[tuple[int, BeamResult]]:
        """Search a target for each source.

        Args:
            variables: The model's parameters and collections.
            sources: Token ids of each source, as the model reads them.
            limits: Most tokens of each target, EOS included.
            sample_ids: [n, 2], as for `generate`.
            threads: How many of these searches run at once and share `batch_tokens`.

        Yields:
            The index of a source, and its hypotheses as NumPy arrays without the batch's axis.
        """
        waiting = Waiting(sources, limits, sample_ids, self._search.batch_tokens // threads)
        while waiting:
            yield from self._search_round(variables, sources, waiting)
            waiting.next_round()

    def _search_round(
        self, variables: Any, sources: Sequence[Sequence[int]], waiting: Waiting
    ) -> Iterator[tuple[int, BeamResult]]:
        """Search, as `__call__`, a target for each source that waits and is not left."""
        devices = self._devices
        size = self._size(waiting.longest(), len(waiting), waiting)
        held = np.full((devices, size.rows), -1)  # the sentence of each row
        free = np.tile(np.arange(size.rows), (devices, 1))
        state, rows = self._begin(size)(variables, *waiting.enter(held, free, size.width))
        while True:
            is_held = held >= 0
            # Every device goes on until one more of its sentences is finished.
            alive = is_held.sum(axis=1)
            floor = np.clip(alive - 1, 0, self._floor(size, waiting)).astype(np.int32)
            state, found = self._extend(size)(variables, state, rows, is_held.reshape(-1), floor)
            unfinished, taken, result = jax.device_get(found)
            is_unfinished = unfinished.reshape(devices, -1)
            for device, row in np.argwhere(is_held & ~is_unfinished):
                at = device * size.rows + row
                yield int(held[device, row]), BeamResult(*(field[at] for field in result))
            held = np.where(is_unfinished, held, -1)
            needed = np.where(is_unfinished, taken.reshape(devices, -1) + self._search.rows, 0)
            held, needed = waiting.leave(held, needed, size.places)
            if not waiting and not (held >= 0).any():
                return
            longest = max((len(sources[i]) for i in held[held >= 0]), default=0)
            new = self._next_size(size, held, needed, longest, waiting)
            held, needed = waiting.leave(held, needed, new.places)
            if new != size:
                kept = np.argsort(held < 0, axis=1, kind="stable")[:, : new.rows]
                held = np.take_along_axis(held, kept, axis=1)
                # Rows that are added repeat the last one, which is free.
                added = ((0, 0), (0, max(new.rows - size.rows, 0)))
                kept, held = np.pad(kept, added, "edge"), np.pad(held, added, "edge")
                change = self._resize(size, new)
                state, rows = change(variables, state, rows, kept.astype(np.int32).reshape(-1))
                size = new
            while self._may_enter(waiting, size.width):
                is_free = held < 0
                if is_free.sum(axis=1).min() < self._rows_to_refill(size, waiting):
                    break
                free = np.argsort(held >= 0, axis=1, kind="stable")[:, : self._refill_size(size)]
                free = np.where(np.take_along_axis(is_free, free, axis=1), free, -1)
                width = self._width(waiting.longest(), waiting)
                arrays = waiting.enter(held, free, width)
                state, rows = self._refill(size, width)(
                    variables, state, rows, *arrays, free.astype(np.int32).reshape(-1)
                )

    def _size(self, longest: int, sentences: int, waiting: Waiting) -> _Size:
        """The size of a batch of `sentences`, whose longest source has `longest` tokens."""
        width = self._width(longest, waiting)
        most = max(waiting.batch_tokens // width, 1)
        rows = min(power_of_two(-(-sentences // self._devices)), 1 << (most.bit_length() - 1))
        tokens = longest + waiting.spare
        further = OWN if self._search.method == "beam" else tokens  # samples share nothing
        places = tokens + further * (self._search.rows - 1)
        return _Size(rows, width, round_size(places, 2 * waiting.spare))

    def _refill_size(self, size: _Size) -> int:
        """Most sentences on a device that begin together: all of a small batch, whose programs
        would take as long for fewer. Rows that are free cost more in a beam."""
        part = 4 if self._search.rows == 1 else 8
        return min(size.rows, max(size.rows // part, 8))

    def _rows_to_refill(self, size: _Size, waiting: Waiting) -> int:
        """Rows on a device that must be free before sentences begin in them."""
        return min(self._refill_size(size), -(-len(waiting) // self._devices))

    def _width(self, length: int, waiting: Waiting) -> int:
        return min(round_size(length, 2 * waiting.spare), self._model_limit)

    def _may_enter(self, waiting: Waiting, width: int) -> bool:
        """Whether the next sentence may join a batch: not if most of its row would be padding."""
        return bool(waiting) and 2 * self._width(waiting.longest(), waiting) >= width

    def _floor(self, size: _Size, waiting: Waiting) -> int:
        """Sentences on a device at which a batch stops, to take others or to become smaller."""
        if self._may_enter(waiting, size.width):
            return size.rows - self._rows_to_refill(size, waiting)
        return size.rows // 4

    def _next_size(
        self, size: _Size, held: np.ndarray, needed: np.ndarray, longest: int, waiting: Waiting
    ) -> _Size:
        """The size with which to go on.

        Args:
            size: The size until now.
            held: The sentence of each row, [devices, rows], -1 none.
            needed: Places that each of them needs for its next step, 0 for none.
            longest: Most tokens of a source that is not finished; 0 where all are finished.
            waiting: The sentences that have not begun.
        """
        alive = int((held >= 0).sum(axis=1).max())
        rows, places = size.rows, size.places
        if self._may_enter(waiting, self._width(longest, waiting)):
            sentences = alive * self._devices + len(waiting)
            new = self._size(max(longest, waiting.longest()), sentences, waiting)
            if alive < rows and not rows // 4 < new.rows <= rows:
                rows = new.rows
        else:
            new = self._size(longest, alive * self._devices, waiting)
            if 4 * alive <= rows:
                rows = new.rows
        # A cache is copied to become smaller: not by less than half for itself alone.
        is_smaller = new.width < size.width or 2 * new.places <= places
        if is_smaller and new.places < places and waiting.may_leave(needed, new.places, soon=True):
            places = new.places
        elif not waiting.may_leave(needed, places):
            places = round_size(int(needed.max()), 2 * waiting.spare)
        return _Size(rows, new.width, places)

    def _program(self, size: _Size, variables, cache, rows) -> SearchProgram:
        max_length = size.width + self._search.extra_length
        limits, sample_ids = rows
        return make_program(
            self._model, variables, self._search, cache, limits, sample_ids, max_length
        )

    def _init_cache(self, variables, source, places):
        rows = self._search.rows
        return self._model.apply(variables, source, rows, places, method="init_cache")

    def _resize_cache(self, variables, cache, size: _Size):
        return self._model.apply(variables, cache, size.width, size.places, method="resize_cache")

    def _cached(self, make):
        cached = functools.cache(make)

        def get(*sizes):
            with self._lock:
                return cached(*sizes)

        return get

    def _jit(self, function, arguments: int, **options):
        self.program_count += 1
        return SharedProgram(self._compiled(function, arguments, **options))

    def _make_begin(self, size: _Size):
        def begin(variables, source, limits, sample_ids):
            rows = limits, sample_ids
            cache = self._init_cache(variables, source, size.places)
            return self._program(size, variables, cache, rows).start(cache), rows

        return self._jit(begin, 4, gathered=False)

    def _make_refill(self, size: _Size, width: int):
        def refill(variables, state, rows, source, limits, sample_ids, at):
            """Sentences of that width begin in the rows `at`; -1 is no row."""
            new_rows = limits, sample_ids
            cache = self._init_cache(variables, source, size.places)
            if width < size.width:
                cache = self._resize_cache(variables, cache, size)
            new = self._program(size, variables, cache, new_rows).start(cache)
            at = jnp.where(at < 0, size.rows, at)

            def put(old, new):
                grouped = old.reshape(size.rows, -1, *old.shape[1:])
                entries = new.reshape(len(at), -1, *new.shape[1:])
                return grouped.at[at].set(entries, mode="drop").reshape(old.shape)

            return jax.tree.map(put, state, new), jax.tree.map(put, rows, new_rows)

        return self._jit(refill, 7, donate=1, gathered=False)

    def _make_extend(self, size: _Size):
        def extend(variables, state, rows, is_held, floor):
            """Extend a state until `floor` of those held are unfinished, or the cache is full."""
            program = self._program(size, variables, state.cache, rows)

            def by_sentence(values):
                return values.reshape(size.rows, -1)

            def unfinished(state):
                return is_held & jnp.any(by_sentence(program.is_unfinished(state)), axis=1)

            def taken(state):
                counts: Any = self._model.apply(variables, state.cache, method="places_taken")
                return jnp.broadcast_to(counts, size.rows)

            def is_running(state):
                running = unfinished(state)
                is_full = jnp.any(running & (taken(state) > size.places - self._search.rows))
                return (jnp.sum(running) > floor[0]) & ~is_full

            state = jax.lax.while_loop(is_running, program.extend, state)
            return state, (unfinished(state), taken(state), tuple(program.result(state)))

        return self._jit(extend, 5, donate=1, gathered=(False, True))

    def _make_resize(self, old: _Size, new: _Size):
        def resize(variables, state, rows, kept):
            """Keep some rows, in a batch of another size."""

            def chosen(leaf):
                grouped = leaf.reshape(old.rows, -1, *leaf.shape[1:])[kept]
                return grouped.reshape(-1, *leaf.shape[1:])

            state, rows = jax.tree.map(chosen, (state, rows))
            cache = self._resize_cache(variables, state.cache, new)
            state = self._program(new, variables, cache, rows).resize(state._replace(cache=cache))
            return state, rows

        return self._jit(resize, 4, gathered=False)
