"""Which sentences make batch number n, and in what rectangular shape.

The n-th training batch is a pure function of (corpus fingerprint, DataConfig, seed, n): there is
no iterator state, so resuming at step n continues exactly, on any number of hosts.
"""

import functools
import hashlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from transformer_jax.config import DataConfig
from transformer_jax.data.corpus import Corpus
from transformer_jax.data.vocabulary import PAD_ID

__all__ = [
    "Batch",
    "BatchShape",
    "Batches",
    "Corrupt",
    "Prefetch",
    "choose_shapes",
    "extend_order_digest",
]

# Lengths are rounded up to this many quantiles a side before shapes are chosen among them.
MAX_LENGTH_QUANTILES = 64


class BatchShape(NamedTuple):
    """Sentences in a batch, and tokens per side of each."""

    rows: int
    source: int
    target: int


class Batch(NamedTuple):
    """int32 token ids source [B, S] and target [B, T], PAD = 0; indices [B], -1 for empty rows."""

    source: np.ndarray
    target: np.ndarray
    indices: np.ndarray


Corrupt = Callable[[Batch, Callable[[int], np.ndarray]], Batch]


def extend_order_digest(order: str, batches: Iterable[np.ndarray]) -> str:
    """Extend the digest of the data order: SHA-256 of the digest before and of these batches.

    Args:
        order: Digest of the batches before, "" at first.
        batches: Indices of the sentences of each batch.

    >>> first, second = [np.array([4, 7]), np.array([2])], [np.array([2]), np.array([4, 7])]
    >>> extend_order_digest("", first) == extend_order_digest("", second)
    False
    """
    digest = hashlib.sha256(order.encode())
    for indices in batches:
        digest.update(indices.astype("<i8").tobytes())
    return digest.hexdigest()


def choose_shapes(
    source_lengths: np.ndarray, target_lengths: np.ndarray, batch_tokens: int, max_batch_shapes: int
) -> list[BatchShape]:
    """Choose shapes of batches that waste little padding when each pair takes the smallest that
    fits.

    It starts from the rectangle that holds everything, adds the one that saves most until the
    number is reached, then moves one at a time until none moves. Rows fill `batch_tokens` on the
    longer side, rounded down to a multiple of 8 for the devices that will share them.

    Args:
        source_lengths: Tokens of each source, EOS included.
        target_lengths: Tokens of each target, EOS included.
        batch_tokens: Tokens per side of a batch, padding included.
        max_batch_shapes: Most shapes.

    Returns:
        The shapes, smallest first.

    >>> lengths = np.array([4] * 90 + [10] * 10)
    >>> choose_shapes(lengths, lengths, 80, 2)
    [BatchShape(rows=16, source=4, target=4), BatchShape(rows=8, source=10, target=10)]
    """
    sources, source_cells = _quantile_grid(source_lengths)
    targets, target_cells = _quantile_grid(target_lengths)
    counts = np.zeros((len(sources), len(targets)))
    np.add.at(counts, (source_cells, target_cells), 1)
    area = sources[:, None] + targets[None, :]
    last = (len(sources) - 1, len(targets) - 1)

    def slots(corners):
        """Slots per pair for each cell: those of the smallest rectangle that holds it."""
        smallest = np.full(counts.shape, area[last])
        for i, j in corners:
            np.minimum(smallest[: i + 1, : j + 1], area[i, j], out=smallest[: i + 1, : j + 1])
        return smallest

    def best_addition(corners):
        now = slots(corners)
        saved = np.array(
            [
                (counts[: i + 1, : j + 1] * np.maximum(now[: i + 1, : j + 1] - area[i, j], 0)).sum()
                for i in range(counts.shape[0])
                for j in range(counts.shape[1])
            ]
        )
        index = int(saved.argmax())
        return divmod(index, counts.shape[1]) if saved[index] > 0 else None

    corners = [last]
    while len(corners) < max_batch_shapes and (corner := best_addition(corners)) is not None:
        corners.append(corner)
    moved = True
    while moved:
        moved = False
        for k in range(1, len(corners)):
            corner = best_addition(corners[:k] + corners[k + 1 :])
            before = (counts * slots(corners)).sum()
            if corner is None or corner == corners[k]:
                continue
            changed = [*corners[:k], corner, *corners[k + 1 :]]
            if (counts * slots(changed)).sum() < before:
                corners, moved = changed, True
    shapes = []
    for i, j in sorted(set(corners)):
        rows = batch_tokens // int(max(sources[i], targets[j]))
        rows = rows // 8 * 8 if rows >= 8 else max(rows, 1)
        shapes.append(BatchShape(rows, int(sources[i]), int(targets[j])))
    return shapes


def _quantile_grid(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most MAX_LENGTH_QUANTILES lengths, the last of them the longest, and for each
    length the index of the one that fits it."""
    values = np.unique(lengths)
    if len(values) > MAX_LENGTH_QUANTILES:
        ranks = np.linspace(0, len(lengths) - 1, MAX_LENGTH_QUANTILES).astype(int)
        values = np.unique(np.sort(lengths)[ranks])
    return values, np.searchsorted(values, lengths)


class Batches:
    """The batches of a corpus: `batch(n)` for training, `one_epoch()` to visit each pair once."""

    def __init__(
        self,
        corpus: Corpus,
        config: DataConfig,
        seed: int,
        select_local: Callable[[np.ndarray], np.ndarray] = lambda indices: indices,
        ignored: int = PAD_ID,
        corrupt: Corrupt | None = None,
    ):
        """Choose the shapes of batches.

        Args:
            corpus: The prepared text.
            config: Sizes of the batches.
            seed: Decides the order of sentences and batches.
            select_local: Gives those of a batch's sentences to assemble here, -1 for empty rows.
            ignored: What stands in the target after its end.
            corrupt: (batch, draw) -> the batch that training reads in place of that of the text.
                Each of its rows depends on itself and its own numbers: draw(n) [B, n] are uint64
                that depend on the seed, the sentence, how often it was seen before, and the call.
        """
        self._corpus, self._select_local = corpus, select_local
        self._ignored, self._corrupt = ignored, corrupt
        self._key = f"{corpus.fingerprint} {seed}"
        source, target = corpus.source.lengths, corpus.target.lengths
        self.shapes = choose_shapes(source, target, config.batch_tokens, config.max_batch_shapes)
        slots = np.array([shape.source + shape.target for shape in self.shapes])
        # Each pair takes the shape with the fewest slots among those that hold it.
        chosen = np.full(len(corpus), -1)
        for k in np.argsort(-slots, kind="stable"):
            shape = self.shapes[k]
            chosen[(source <= shape.source) & (target <= shape.target)] = k
        self._members = [np.flatnonzero(chosen == k) for k in range(len(self.shapes))]
        self._order = functools.lru_cache(maxsize=4)(self._shuffled_members)
        self._plan = functools.lru_cache(maxsize=2)(self._epoch_plan)

    def _random(self, purpose: str, number: int | str, size: int) -> np.ndarray:
        """Draw `size` 64-bit numbers for a purpose.

        Philox's raw stream is the same in every version of NumPy.
        """
        digest = hashlib.sha256(f"{self._key} {purpose} {number}".encode()).digest()
        key = np.frombuffer(digest[:16], np.uint64)
        return np.random.Philox(key=key).random_raw(size)

    def _shuffled_members(self, epoch: int) -> list[np.ndarray]:
        numbers = self._random("sentences", epoch, len(self._corpus))
        return [m[np.argsort(numbers[m], kind="stable")] for m in self._members]

    def batches_before(self, epoch: int) -> int:
        """Count the batches completed in epochs 0 to epoch - 1.

        Sentences left over when an epoch ends open the next epoch's batch of their shape, so every
        batch is full and over time every sentence is seen equally often.
        """
        return sum(epoch * len(m) // s.rows for m, s in zip(self._members, self.shapes))

    def epoch_of(self, n: int) -> int:
        """Return the epoch in which batch n is completed."""
        low, high = 0, 1
        while self.batches_before(high) <= n:
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.batches_before(middle) <= n else (low, middle)
        return low

    def _epoch_plan(self, epoch: int) -> list[tuple[int, int]]:
        """List (shape, number of the batch within its shape) in the order of this epoch."""
        batches_of_epoch = []
        for k, (members, shape) in enumerate(zip(self._members, self.shapes)):
            first, end = (e * len(members) // shape.rows for e in (epoch, epoch + 1))
            batches_of_epoch += [(k, j) for j in range(first, end)]
        order = np.argsort(self._random("batches", epoch, len(batches_of_epoch)), kind="stable")
        return [batches_of_epoch[i] for i in order]

    def shape_and_indices(self, n: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Plan training batch n.

        Returns:
            Index of its shape, indices of its sentences, and how often each was seen before.
        """
        epoch = self.epoch_of(n)
        k, j = self._plan(epoch)[n - self.batches_before(epoch)]
        members = len(self._members[k])
        positions = np.arange(j * self.shapes[k].rows, (j + 1) * self.shapes[k].rows)
        passes = positions // members
        parts = [
            self._order(e)[k][positions[passes == e] % members]
            for e in range(passes[0], passes[-1] + 1)
        ]
        return k, np.concatenate(parts), passes

    def shapes_ahead(self, first: int, end: int) -> list[BatchShape]:
        """List shapes of batches `first` to `end` - 1, in the order of their first use.

        It looks at the epoch of the first batch and the next one.
        """
        epoch = self.epoch_of(first)
        plan = self._plan(epoch) + self._plan(epoch + 1)
        at = first - self.batches_before(epoch)
        return [self.shapes[k] for k in dict.fromkeys(k for k, _ in plan[at : at + end - first])]

    def batch(self, n: int) -> Batch:
        """Assemble training batch n."""
        return self.assemble(*self.shape_and_indices(n))

    def one_epoch(self) -> Iterator[Batch]:
        """Visit every pair exactly once; the last batch of a shape is filled with empty rows."""
        for k, members in enumerate(self._members):
            rows = self.shapes[k].rows
            for first in range(0, len(members), rows):
                indices = members[first : first + rows]
                padded = np.pad(indices, (0, rows - len(indices)), constant_values=-1)
                yield self.assemble(k, padded)

    def assemble(self, k: int, indices: np.ndarray, passes: np.ndarray | None = None) -> Batch:
        """Assemble the part of a batch that this process reads.

        Args:
            k: Index of the shape.
            indices: Indices of the batch's sentences.
            passes: How often each was seen before; the batch is then corrupted where the task asks
                for it. None leaves it as it is.
        """
        shape, indices = self.shapes[k], self._select_local(indices)
        batch = Batch(
            self._corpus.source.rows(indices, shape.source),
            self._corpus.target.rows(indices, shape.target, self._ignored),
            indices.astype(np.int32),
        )
        if passes is None or self._corrupt is None:
            return batch
        names = [f"{i} {seen}" for i, seen in zip(indices, self._select_local(passes))]

        calls = itertools.count()

        def draw(size: int) -> np.ndarray:
            call = next(calls)
            return np.stack([self._random("corruption", f"{name} {call}", size) for name in names])

        return self._corrupt(batch, draw)

    def padding_fraction(self) -> float:
        """Compute 1 - tokens (EOS included) / slots, of both sides and a whole epoch."""
        lengths = self._corpus.source.lengths + self._corpus.target.lengths
        slots = sum(len(m) * (s.source + s.target) for m, s in zip(self._members, self.shapes))
        return 1 - int(lengths.sum()) / slots


@dataclass
class Prefetch:
    """Calls make(first), make(first + 1), ... ahead of use in a thread; iterate over it and
    `close` it.

    `waited` counts the seconds for which the consumer had to wait.
    """

    make: Callable[[int], object]
    first: int
    end: int
    depth: int = 4
    waited: float = 0.0

    def __post_init__(self):
        self._queue: queue.Queue = queue.Queue(self.depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def _fill(self):
        for n in range(self.first, self.end):
            item: tuple[object, BaseException | None]
            try:
                item = (self.make(n), None)
            except BaseException as error:  # handed to the consumer, who can act on it
                item = (None, error)
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._stop.is_set() or item[1] is not None:
                return

    def __iter__(self):
        for _ in range(self.first, self.end):
            start = time.perf_counter()
            value, error = self._queue.get()
            self.waited += time.perf_counter() - start
            if error is not None:
                raise error
            yield value

    def close(self):
        self._stop.set()
        self._thread.join()
