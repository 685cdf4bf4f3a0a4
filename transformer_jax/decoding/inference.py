"""Translate and score many sentences of token ids: grouped by length, padded, searched in jit."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from transformer_jax.data.vocabulary import BOS_ID, EOS_ID, PAD_ID
from transformer_jax.decoding.beam import beam_search
from transformer_jax.decoding.cache import all_but, transformer_step
from transformer_jax.decoding.greedy import greedy_search
from transformer_jax.decoding.sampling import sample
from transformer_jax.decoding.scoring import force
from transformer_jax.errors import UserError
from transformer_jax.functional.keys import seed_key
from transformer_jax.models.transformer import Transformer
from transformer_jax.parallel import Layout
from transformer_jax.search import Search

__all__ = ["BATCH_TOKENS", "Hypothesis", "Inference"]

# Of a batch on one device, padding included, unless the caller has others.
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Hypothesis:
    """Token ids without EOS, log-probability (nats) and score = log-probability / penalty.

    A search chooses among V - 2 tokens, PAD and BOS being none; log-probabilities are the model's
    over all V, as those of `Inference.score`.
    """

    ids: list[int]
    log_prob: float
    score: float


class Inference:
    """A model with its parameters, ready to translate lists of token ids (without EOS).

    `params` may be replaced; what is compiled stays. `batch_tokens` are those of one device: with a
    `layout` its devices share the sentences, each translating its own. `longest` is the most tokens
    of a sentence, EOS included, that are read or written at once.
    """

    def __init__(
        self,
        model: Transformer,
        params: Any,
        batch_tokens: int = BATCH_TOKENS,
        layout: Layout | None = None,
    ):
        self._model = model
        self._mesh = None if layout is None or layout.mesh.size == 1 else layout.mesh
        self._devices = 1 if self._mesh is None else self._mesh.size
        self.params = params
        self._batch_tokens = batch_tokens
        learned = model.config.positions == "learned"
        self._positions = model.config.max_positions if learned else np.iinfo(np.int32).max
        self.longest = min(self._positions, batch_tokens)
        self._search = functools.cache(
            lambda search: self._compiled(functools.partial(_search, model, search=search), 4)
        )
        self._force = self._compiled(functools.partial(_force, model), 3)
        self._attend = jax.jit(functools.partial(model.apply, mutable=["attention"]))

    def _compiled(self, function, arguments: int):
        """`function` of parameters and of rows, in which no device needs another's."""
        if self._mesh is None:
            return jax.jit(function)
        rows = P(self._mesh.axis_names)
        spread = jax.shard_map(
            function,
            mesh=self._mesh,
            in_specs=(P(), *[rows] * (arguments - 1)),
            out_specs=rows,
            check_vma=False,
        )
        # Whole everywhere, so that every process can read it.
        return jax.jit(spread, out_shardings=NamedSharding(self._mesh, P()))

    def translate(
        self,
        sources: Sequence[Sequence[int]],
        search: Search = Search(),
        numbers: Sequence[int] | None = None,
        parts: Sequence[int] | None = None,
    ) -> list[list[Hypothesis]]:
        """At most n_best hypotheses for each source, best first, in the order of the sources.

        Samples of a sentence are drawn by its number (default: its place) and, where several are
        parts of one, by that of its part (default: 0), whatever its company; errors name the first.
        """
        numbers = range(len(sources)) if numbers is None else numbers
        parts = [0] * len(sources) if parts is None else parts
        self._check_lengths(sources, numbers)
        results: list[list[Hypothesis]] = [[] for _ in sources]
        for indices, source in self._groups(sources, search.rows):
            longest = [len(sources[i]) + search.extra_length for i in indices]
            limits = _pad_to(np.minimum(longest, self._positions), len(source))
            streams = [_pad_to([of[i] for i in indices], len(source)) for of in (numbers, parts)]
            found = self._search(search)(self.params, source, limits, np.stack(streams, axis=1))
            tokens, lengths, log_probs, scores = jax.device_get(found)
            for row, i in enumerate(indices):
                hypotheses = [
                    Hypothesis(
                        tokens[row, k, : lengths[row, k] - 1].tolist(),
                        float(log_probs[row, k]),
                        float(scores[row, k]),
                    )
                    for k in range(tokens.shape[1])
                    if np.isfinite(scores[row, k])
                ]
                # A beam is in this order already; samples come as they are drawn.
                results[i] = sorted(hypotheses, key=lambda each: -each.score)
        return results

    def score(
        self,
        sources: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        numbers: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """Log-probability of every target token, EOS last, for each pair."""
        for side in (sources, targets):
            self._check_lengths(side, range(len(side)) if numbers is None else numbers)
        results: list[np.ndarray] = [np.empty(0)] * len(sources)
        for indices, source in self._groups(sources, 1, targets):
            length = self._width(max(len(targets[i]) for i in indices) + 1)
            rows = _rows([targets[i] for i in indices], len(source), length)
            log_probs = jax.device_get(self._force(self.params, source, rows))
            for row, i in enumerate(indices):
                results[i] = log_probs[row, : len(targets[i]) + 1]
        return results

    def attention(
        self, source: Sequence[int], target: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights of every layer and head for one pair of S and T tokens, EOS included.

        Encoder [L, H, S, S], decoder [L, H, T, T] and cross [L, H, T, S], float32.
        """
        self._check_lengths([source, target], [0, 0])
        rows, columns = len(target) + 1, len(source) + 1
        # One of few widths for both sides, so that few are compiled.
        width = min(_power_of_two(max(rows, columns, 16)), self._positions)
        read, written = (_rows([ids], 1, width) for ids in (source, target))
        _, state = self._attend({"params": self.params}, read, written)

        def weights(stack: str, part: str, queries: int, keys: int) -> np.ndarray:
            layers = range(self._model.config.num_layers)
            found = [state["attention"][f"{stack}_{i}"][part]["weights"][0] for i in layers]
            return np.stack([np.asarray(x, np.float32)[:, :queries, :keys] for x in found])

        return (
            weights("encoder", "self_attention", columns, columns),
            weights("decoder", "self_attention", rows, rows),
            weights("decoder", "cross_attention", rows, columns),
        )

    def _check_lengths(self, sentences: Sequence[Sequence[int]], numbers: Sequence[int]) -> None:
        for ids, number in zip(sentences, numbers):
            if len(ids) >= self.longest:
                raise UserError(
                    f"sentence {number + 1} has {len(ids) + 1} tokens with EOS, more than the "
                    f"{self.longest} that can be read at once: split it"
                )

    def _width(self, length: int) -> int:
        """A length with EOS, padded so that few are compiled."""
        return min(_round_up(length), self._positions)

    def _groups(
        self, sources, rows_per_sentence, targets=None
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """(sentence numbers, source [B, S]) by rising length, B and S from few values."""

        def length(i):
            return max(len(sources[i]), len(targets[i]) if targets is not None else 0)

        def fits(rows, longest):
            slots = self._padded(rows) * rows_per_sentence * _round_up(longest + 1)
            return slots <= self._batch_tokens * self._devices

        order = sorted(range(len(sources)), key=length)
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and fits(end + 1 - start, length(order[end])):
                end += 1
            group, start = order[start:end], end
            width = self._width(max(len(sources[i]) for i in group) + 1)
            yield group, _rows([sources[i] for i in group], self._padded(len(group)), width)

    def _padded(self, rows: int) -> int:
        """Rows of which every device has as many, one of few numbers."""
        return self._devices * _power_of_two(-(-rows // self._devices))


def _power_of_two(count: int) -> int:
    """The smallest power of two that is not below `count`."""
    return 1 << (count - 1).bit_length()


def _round_up(length: int, step: int = 8) -> int:
    return -(-length // step) * step


def _pad_to(values, size) -> np.ndarray:
    return np.pad(np.asarray(values, np.int32), (0, size - len(values)))


def _rows(sentences, size, width) -> np.ndarray:
    """int32 [size, width]: sentences with EOS; rows left over are all padding."""
    rows = np.full((size, width), PAD_ID, np.int32)
    for row, ids in zip(rows, sentences):
        row[: len(ids)] = ids
        row[len(ids)] = EOS_ID
    return rows


def _search(model, params, source, limits, streams, *, search: Search):
    """(tokens [B, n, T], lengths, log_probs, scores, each [B, n]).

    `streams` [B, 2] are the numbers by which samples are drawn: of a sentence and of its part.
    """
    max_length = source.shape[1] + search.extra_length
    step, cache = transformer_step(model, params, source, search.rows, max_length)
    common = {
        "max_length": max_length,
        "start_id": model.config.start_id,
        "eos_id": EOS_ID,
        # Neither is ever a target.
        "allowed": all_but((PAD_ID, BOS_ID), model.config.vocab_size),
    }
    if search.method == "beam":
        return beam_search(
            step,
            cache,
            limits=limits,
            beam_size=search.beam_size,
            n_best=search.n_best,
            penalty=search.penalty,
            alpha=search.alpha,
            eos_rule=search.eos_rule,
            **common,
        )
    if search.method == "greedy":
        found = greedy_search(step, cache, limits=limits, **common)
    else:
        rng = seed_key(search.seed)
        copies = streams[:, 1:] * search.rows + jnp.arange(search.rows)[None]
        copies, numbers = copies.reshape(-1), jnp.repeat(streams[:, 0], search.rows)
        fold = jax.vmap(lambda n, c: jax.random.fold_in(jax.random.fold_in(rng, n), c))
        found = sample(
            step,
            cache,
            fold(numbers, copies),
            limits=jnp.repeat(limits, search.rows),
            temperature=search.temperature,
            top_k=search.top_k,
            top_p=search.top_p,
            **common,
        )
    shape = (len(limits), search.rows)
    total = found.log_probs.sum(axis=1).reshape(shape)
    return found.tokens.reshape(*shape, -1), found.lengths.reshape(shape), total, total


def _force(model, params, source, targets):
    step, cache = transformer_step(model, params, source, 1, targets.shape[1])
    return force(step, cache, targets, start_id=model.config.start_id, eos_id=EOS_ID).log_probs
