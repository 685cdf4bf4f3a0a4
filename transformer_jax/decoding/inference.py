"""Predict and score many sentences of token ids, in batches of few shapes."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from transformer_jax.data.pairing import Pairing
from transformer_jax.decoding.continuous import ContinuousSearch
from transformer_jax.decoding.options import Search
from transformer_jax.decoding.padding import pad_rows, power_of_two, round_size
from transformer_jax.decoding.threads import search_in_threads, thread_count
from transformer_jax.devices.layout import Layout
from transformer_jax.errors import UserError
from transformer_jax.functional.losses import map_blocks, token_log_probs
from transformer_jax.models.families import family_of

__all__ = ["BATCH_TOKENS", "BatchDecoder", "Hypothesis"]

# Of a batch on one device, padding included, unless the caller has others.
BATCH_TOKENS = 4096
# Searches whose programs are kept, the newest.
MOST_SEARCHES = 8
# Positions whose logits are there at once while targets are scored.
SCORED_AT_ONCE = 512


@dataclass(frozen=True)
class Hypothesis:
    """A target that a search has found.

    A search chooses among V - 2 tokens, as PAD and BOS are never written; log-probabilities are the
    model's over all V, equal to those of `BatchDecoder.score`.

    Attributes:
        ids: Token ids without EOS.
        log_prob: Log-probability in nats.
        score: log_prob / length penalty.
    """

    ids: list[int]
    log_prob: float
    score: float


class BatchDecoder:
    """A model with its variables, which predicts from lists of token ids (without EOS).

    `variables` may be replaced; what is compiled stays. `max_length` is the most tokens of a
    sentence, EOS included, that are read or written at once.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: Any,
        batch_tokens: int = BATCH_TOKENS,
        layout: Layout | None = None,
        pairing: Pairing = Pairing(),
        searched: Callable[[Search], Any] | None = None,
    ):
        """Prepare the model; nothing is compiled yet.

        Args:
            model: A model of a family.
            variables: Its parameters and collections.
            batch_tokens: Tokens of a batch on one device, padding included, when pairs are scored
                or tokens classified; a search has its own.
            layout: Devices among which sentences are distributed; None uses one.
            pairing: How the task turns a pair of lines into rows of ids.
            searched: Makes what a search asks instead of the model, with its variables; None asks
                the model.
        """
        self._model, self._searched = model, searched or (lambda search: model)
        self._family = family_of(model.config)
        self._pairing = pairing
        self._mesh = None if layout is None or layout.mesh.size == 1 else layout.mesh
        self._devices = 1 if self._mesh is None else self._mesh.size
        self.variables = variables
        self._batch_tokens = batch_tokens
        self._model_limit = self._family.max_length(model.config) or np.iinfo(np.int32).max
        self.max_length = min(self._model_limit, batch_tokens)
        self._searches: dict[Search, ContinuousSearch] = {}
        self._on_progress: Callable[[int], object] | None = None
        self._score = self._compiled(functools.partial(_score, model), 3)
        self._label = self._compiled(functools.partial(_label, model), 2)
        self._attend = jax.jit(functools.partial(model.apply, mutable=["attention"]))

    @property
    def program_count(self) -> int:
        """Number of programs that the searches kept have compiled.

        There are two for each size of a batch, one for each width of the sources that enter it, and
        one for each change of its size. Sizes are few for texts of some length; in what order they
        change depends on where sentences end, so that programs become rarer with the text and do
        not cease.
        """
        return sum(search.program_count for search in self._searches.values())

    @contextlib.contextmanager
    def reporting(self, on_progress: Callable[[int], object] | None) -> Iterator[None]:
        """Call on_progress(count) for sentences that are predicted within this context."""
        self._on_progress = on_progress
        try:
            yield
        finally:
            self._on_progress = None

    def _compiled(self, function, arguments: int, *, donate=(), gathered: Any = True):
        """`function` of variables and of rows, in which no device needs another's.

        Outputs that are `gathered` are whole everywhere, so that every process can read them.
        """
        mesh = self._mesh
        if mesh is None:
            return jax.jit(function, donate_argnums=donate)
        rows = P(mesh.axis_names)
        spread = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(P(), *[rows] * (arguments - 1)),
            out_specs=rows,
            check_vma=False,
        )
        out = jax.tree.map(lambda g: NamedSharding(mesh, P() if g else rows), gathered)
        return jax.jit(spread, out_shardings=out, donate_argnums=donate)

    def translate(
        self,
        sources: Sequence[Sequence[int]],
        search: Search = Search(),
        numbers: Sequence[int] | None = None,
        parts: Sequence[int] | None = None,
    ) -> list[list[Hypothesis]]:
        """Search a target for each source.

        Args:
            sources: Token ids of each source, without EOS.
            search: The search and its options.
            numbers: Number of each sentence, by which its samples are drawn and errors name it; by
                default its index. So a sample does not depend on the rest of the batch.
            parts: Number of each part, where several sources are parts of one sentence; by default
                0.

        Returns:
            At most n_best hypotheses for each source, best first, in the order of the sources.
        """
        numbers = range(len(sources)) if numbers is None else numbers
        parts = [0] * len(sources) if parts is None else parts
        rows = self._read(sources, numbers)
        results: list[list[Hypothesis]] = [[] for _ in sources]
        limits = [len(ids) + search.extra_length for ids in sources]
        sample_ids = np.stack([np.asarray(of, np.int32) for of in (numbers, parts)], axis=1)
        if search not in self._searches:
            while len(self._searches) >= MOST_SEARCHES:
                del self._searches[next(iter(self._searches))]
            self._searches[search] = ContinuousSearch(
                self._searched(search), search, self._compiled, self._devices, self._model_limit
            )
        threads = 1 if self._mesh else thread_count(len(rows))
        searched = search_in_threads(
            self._searches[search], threads, self.variables, rows, limits, sample_ids
        )
        for i, found in searched:
            hypotheses = [
                Hypothesis(tokens[: length - 1].tolist(), float(log_prob), float(score))
                for tokens, length, log_prob, score in zip(*found)
                if np.isfinite(score)
            ]
            # A beam is in this order already; samples come as they are drawn.
            results[i] = sorted(hypotheses, key=lambda each: -each.score)
            if self._on_progress is not None and parts[i] == 0:
                self._on_progress(1)
        return results

    def label(
        self, sources: Sequence[Sequence[int]], numbers: Sequence[int] | None = None
    ) -> list[list[Hypothesis]]:
        """Predict the likeliest class of each token, for a task that aligns both sides.

        Args:
            sources: Token ids of each source.
            numbers: Number of each sentence, by which errors name it; by default its index.

        Returns:
            One hypothesis per source; its log-probability is the sum over its classes.
        """
        rows = self._read(sources, range(len(sources)) if numbers is None else numbers)
        results: list[list[Hypothesis]] = [[] for _ in sources]
        for indices, source in self._length_buckets(rows):
            classes, log_probs = jax.device_get(self._label(self.variables, source))
            for row, i in enumerate(indices):
                total = float(log_probs[row, : len(sources[i])].sum())
                if np.isfinite(total):
                    ids = classes[row, : len(sources[i])].tolist()
                    results[i] = [Hypothesis(ids, total, total)]
            if self._on_progress is not None:
                self._on_progress(len(indices))
        return results

    def score(
        self,
        sources: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        numbers: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """Compute the log-probability of every target token, teacher-forced.

        Args:
            sources: Token ids of each source, without EOS.
            targets: Token ids of each target, without EOS.
            numbers: Number of each pair, by which errors name it; by default its index.

        Returns:
            Log-probabilities of each target's tokens, EOS last.

        Raises:
            UserError: A sentence is too long, or a pair is not aligned where the task needs it.
        """
        numbers = range(len(sources)) if numbers is None else numbers
        read, written = self._read(sources, numbers), self._written(targets, numbers)
        if self._pairing.aligned:
            for number, *pair in zip(numbers, map(len, read), map(len, written)):
                if pair[0] != pair[1]:
                    raise UserError(
                        f"sentence {number + 1} has {pair[0]} source tokens but {pair[1]} target "
                        "tokens: the task has a target token for each"
                    )
        results: list[np.ndarray] = [np.empty(0)] * len(sources)
        for indices, source in self._length_buckets(read, written):
            rows = pad_rows([written[i] for i in indices], *source.shape)
            log_probs = jax.device_get(self._score(self.variables, source, rows))
            for row, i in enumerate(indices):
                results[i] = log_probs[row, : len(written[i])]
        return results

    def attention(
        self, source: Sequence[int], target: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute the attention weights of every layer and head for one pair of S and T tokens.

        Returns:
            Encoder [L, H, S, S], decoder [L, H, T, T] and cross [L, H, T, S], float32; EOS counts
            on both sides.
        """
        [read], [written] = self._read([source], [0]), self._written([target], [0])
        rows, columns = len(written), len(read)
        # One of few widths for both sides, so that few are compiled.
        width = min(power_of_two(max(rows, columns, 16)), self._model_limit)
        padded = (pad_rows([ids], 1, width) for ids in (read, written))
        _, collected = self._attend(self.variables, *padded)
        weights = self._family.attention(self._model.config, collected.get("attention", {}))
        sizes = ((columns, columns), (rows, rows), (rows, columns))
        encoder, decoder, cross = (w[..., :q, :k] for w, (q, k) in zip(weights, sizes))
        return encoder, decoder, cross

    def _read(self, sources, numbers) -> list[list[int]]:
        """Rows that the model reads."""
        return self._checked([self._pairing.source(list(ids)) for ids in sources], numbers)

    def _written(self, targets, numbers) -> list[list[int]]:
        """Rows that it writes."""
        return self._checked([self._pairing.target(list(ids)) for ids in targets], numbers)

    def _checked(self, rows: list[list[int]], numbers: Sequence[int]) -> list[list[int]]:
        for ids, number in zip(rows, numbers):
            if len(ids) > self.max_length:
                raise UserError(
                    f"sentence {number + 1} has {len(ids)} tokens with EOS, more than the "
                    f"{self.max_length} that can be read at once: split it"
                )
        return rows

    def _width(self, length: int) -> int:
        """A length with EOS, padded so that few are compiled."""
        return min(round_size(length, 8), self._model_limit)

    def _length_buckets(self, sources, targets=None) -> Iterator[tuple[list[int], np.ndarray]]:
        """(sentence numbers, source [B, S]) by rising length, B and S from few values; S tokens
        hold each target, too."""

        def length(i):
            return max(len(sources[i]), len(targets[i]) if targets is not None else 0, 1)

        def fits(rows, longest):
            slots = self._padded(rows) * self._width(longest)
            return slots <= self._batch_tokens * self._devices

        order = sorted(range(len(sources)), key=length)
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and fits(end + 1 - start, length(order[end])):
                end += 1
            group, start = order[start:end], end
            size = self._padded(len(group)), self._width(length(group[-1]))
            yield group, pad_rows([sources[i] for i in group], *size)

    def _padded(self, rows: int) -> int:
        """Rows of which every device has as many, one of few numbers."""
        return self._devices * power_of_two(-(-rows // self._devices))


def _score(model, variables, source, targets):
    """Log-probability [B, T] of each target; NaN for what is no class."""
    features: Any = model.apply(variables, source, targets, method="features")

    def scored(features, targets):
        logits = model.apply(variables, features, method="project")
        return token_log_probs(logits, targets)

    found = map_blocks(scored, SCORED_AT_ONCE, features, targets)
    return found.reshape(-1)[: targets.size].reshape(targets.shape)


def _label(model, variables, source):
    """(likeliest class, its log-probability), each [B, S]."""
    logits: Any = model.apply(variables, source, source)
    log_probs, classes = jax.lax.top_k(jax.nn.log_softmax(logits), 1)
    return classes[..., 0], log_probs[..., 0]
