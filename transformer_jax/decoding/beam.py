"""Beam search as one jitted loop (section 6.1)."""

from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp

from transformer_jax.decoding.options import EosRule, LengthPenalty
from transformer_jax.decoding.program import SearchProgram, resize_last_axis
from transformer_jax.decoding.rows import (
    Allowed,
    DecodeStep,
    Project,
    check_limits,
    log_probs_of,
)
from transformer_jax.decoding.top import top_values

__all__ = ["BeamResult", "beam_program", "beam_search", "length_divisor"]

# 8 MB of logits, which stay in a CPU's cache between the passes over them.
LOGITS_AT_ONCE = 2**21


class BeamResult(NamedTuple):
    """Hypotheses of each sentence, best first.

    Attributes:
        tokens: [B, n, T] int32, 0 after EOS.
        lengths: [B, n], EOS included.
        log_probs: [B, n], sums over the tokens.
        scores: [B, n], the log-probability divided by the length penalty; -inf where no hypothesis
            was found.
    """

    tokens: jax.Array
    lengths: jax.Array
    log_probs: jax.Array
    scores: jax.Array


def length_divisor(length, kind: LengthPenalty, alpha: float):
    """Compute what the log-probability of a hypothesis is divided by::

        gnmt   ((5 + length) / 6)^alpha   the paper's (Wu et al. 2016, equation 14)
        power  length^alpha               fairseq, Marian, Hugging Face
        none   1

    Args:
        length: Tokens of the hypothesis, EOS included.
        kind: One of the three above.
        alpha: The exponent.

    Raises:
        ValueError: The kind is unknown.

    >>> float(length_divisor(7, "gnmt", 1.0)), float(length_divisor(7, "power", 1.0))
    (2.0, 7.0)
    """
    length = jnp.asarray(length, jnp.float32)
    if kind == "gnmt":
        return ((5.0 + length) / 6.0) ** alpha
    if kind == "power":
        return length**alpha
    if kind == "none":
        return jnp.ones_like(length)
    raise ValueError(f"length penalty {kind!r} is not one of gnmt, power, none")


class _Beam(NamedTuple):
    """W hypotheses of each sentence that are still alive, and the W best that are finished.

    position [B], parents (of a sentence) and last_tokens [B, W], tokens [B, W, T], log_probs
    [B, W], open_slots [B].
    """

    position: jax.Array
    cache: Any
    parents: jax.Array
    last_tokens: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    finished: BeamResult
    open_slots: jax.Array


def beam_search(
    step: DecodeStep,
    cache: Any,
    *,
    limits: jax.Array,
    max_length: int,
    beam_size: int = 4,
    n_best: int = 1,
    length_penalty: LengthPenalty = "gnmt",
    alpha: float = 0.6,
    eos_rule: EosRule = "shrink",
    start_id: int = 0,
    eos_id: int = 1,
    allowed: Allowed | None = None,
) -> BeamResult:
    """Find the `n_best` hypotheses of B sentences by log-probability / length penalty.

    A sentence is done once no hypothesis that is alive can still beat the worst of its n_best.
    Log-probabilities only fall, so the best possible score is that of the best hypothesis alive
    divided by the most lenient length penalty ahead of it.

    Args:
        step: step(cache, tokens [N], parents [N] or None) -> (cache, logits [N, V]), of N = B *
            beam_size rows; `parents` are the rows of the cache that the rows continue.
        cache: What the first step takes: B * beam_size rows, sentence after sentence.
        limits: Most tokens of each sentence [B], EOS included.
        max_length: Most tokens of any sentence, T; a static size.
        beam_size: W, hypotheses kept for a sentence.
        n_best: Hypotheses returned for a sentence, at most beam_size.
        length_penalty: Name of the divisor, as in `length_divisor`.
        alpha: Exponent of the length penalty.
        eos_rule: "shrink" takes EOS among the best beam_size continuations, and each finished
            hypothesis makes the beam one narrower, so that beam 1 is greedy search; "t2t" is
            tensor2tensor's rule, which takes EOS among the best 2 * beam_size and keeps the beam
            full.
        start_id: The token before the first one.
        eos_id: The token that ends a hypothesis.
        allowed: allowed(cache) -> boolean [N, V] or [1, V], the tokens that may come next.

    Returns:
        The hypotheses of each sentence, best first.

    Raises:
        ValueError: An unknown rule or length penalty, or n_best beyond the beam.

    >>> table = jnp.log(jnp.array([[0.0, 0.4, 0.6], [0.0, 1.0, 0.0], [0.0, 0.9, 0.1]]))
    >>> step = lambda cache, tokens, parents: (cache, table[tokens])
    >>> best = beam_search(step, None, limits=jnp.array([8]), max_length=8, beam_size=2)
    >>> best.tokens[0, 0, :3].tolist(), f"{best.log_probs[0, 0]:.3f}"
    ([2, 1, 0], '-0.616')
    """
    return beam_program(
        step,
        limits=limits,
        max_length=max_length,
        beam_size=beam_size,
        n_best=n_best,
        length_penalty=length_penalty,
        alpha=alpha,
        eos_rule=eos_rule,
        start_id=start_id,
        eos_id=eos_id,
        allowed=allowed,
    ).run(cache)


def beam_program(
    step: DecodeStep,
    *,
    project: Project | None = None,
    limits: jax.Array,
    max_length: int,
    beam_size: int,
    n_best: int,
    length_penalty: LengthPenalty,
    alpha: float,
    eos_rule: EosRule,
    start_id: int,
    eos_id: int,
    allowed: Allowed | None = None,
) -> SearchProgram:
    """Make the search of `beam_search`, whose arguments these are.

    With `project`, the step gives features [N, 1, D], and project(features) the logits [N, V]: of
    some sentences at a time, whose logits the processor's cache holds.
    """
    if not 1 <= n_best <= beam_size:
        raise ValueError(f"n_best {n_best} must be between 1 and beam_size {beam_size}")
    if eos_rule not in get_args(EosRule):
        raise ValueError(f"eos_rule {eos_rule!r} is not one of {', '.join(get_args(EosRule))}")
    check_limits(limits, max_length)
    limits = jnp.minimum(limits, max_length)
    sentences = limits.shape[0]
    candidates = beam_size if eos_rule == "shrink" else 2 * beam_size
    first_row = jnp.arange(sentences)[:, None] * beam_size

    def continuations(beam):
        """The best continuations: cache, log-probabilities, parent beams, tokens, each [B, C]."""
        rows = (beam.last_tokens.reshape(-1), (first_row + beam.parents).reshape(-1))
        cache, outputs = step(beam.cache, *rows)
        mask = None if allowed is None else allowed(cache)

        def best(outputs, log_probs, must_end, mask=mask):
            logits = outputs if project is None else project(outputs)
            new = log_probs_of(logits, log_probs.size, mask, eos_id)
            vocabulary = new.shape[-1]
            is_eos = jnp.arange(vocabulary)[None, None] == eos_id
            new = new.reshape(*log_probs.shape, vocabulary)
            new = jnp.where(must_end[:, None, None] & ~is_eos, -jnp.inf, new)
            total = (log_probs[..., None] + new).reshape(log_probs.shape[0], -1)
            best_log_probs, index = top_values(total, candidates)
            return best_log_probs, index // vocabulary, (index % vocabulary).astype(jnp.int32)

        arrays = [outputs, beam.log_probs, beam.position + 1 >= limits]
        if mask is not None and mask.shape[0] > 1:
            arrays.append(mask)
        block = sentences if project is None else _sentences_at_once(project, outputs, sentences)
        return cache, *_map_sentences(best, block, sentences, arrays)

    def extend(beam):
        cache, log_probs, parents, last_tokens = continuations(beam)
        if eos_rule == "shrink":
            inside = jnp.arange(candidates)[None] < beam.open_slots[:, None]
            log_probs = jnp.where(inside, log_probs, -jnp.inf)
        is_newest = jnp.arange(max_length)[None, None] == beam.position[:, None, None]
        tokens = jnp.where(is_newest, last_tokens[..., None], _take(beam.tokens, parents))
        length = beam.position + 1
        ended = last_tokens == eos_id
        ended_log_probs = jnp.where(ended, log_probs, -jnp.inf)
        finished = _merge(
            beam.finished,
            BeamResult(
                tokens,
                jnp.broadcast_to(length[:, None], last_tokens.shape),
                ended_log_probs,
                ended_log_probs / length_divisor(length, length_penalty, alpha)[:, None],
            ),
        )
        alive_log_probs, chosen = jax.lax.top_k(jnp.where(ended, -jnp.inf, log_probs), beam_size)
        # Of the penalties still ahead the first or the last is the most lenient.
        best_possible_score = alive_log_probs[:, 0] / jnp.maximum(
            length_divisor(length + 1, length_penalty, alpha),
            length_divisor(limits, length_penalty, alpha),
        )
        is_done = best_possible_score <= finished.scores[:, n_best - 1]
        return _Beam(
            length,
            cache,
            _take(parents, chosen),
            _take(last_tokens, chosen),
            _take(tokens, chosen),
            jnp.where(is_done[:, None], -jnp.inf, alive_log_probs),
            finished,
            beam.open_slots - jnp.sum(ended_log_probs > -jnp.inf, axis=1),
        )

    def start(cache):
        shape = (sentences, beam_size)
        minus_infinity = jnp.full(shape, -jnp.inf, jnp.float32)
        no_tokens = jnp.zeros((*shape, max_length), jnp.int32)
        # All beams start equal: only the first counts, or every hypothesis would be found W times.
        initial_log_probs = minus_infinity.at[:, 0].set(jnp.where(limits > 0, 0.0, -jnp.inf))
        return _Beam(
            jnp.zeros(sentences, jnp.int32),
            cache,
            jnp.broadcast_to(jnp.arange(beam_size, dtype=jnp.int32), shape),
            jnp.full(shape, start_id, jnp.int32),
            no_tokens,
            initial_log_probs,
            BeamResult(no_tokens, jnp.zeros(shape, jnp.int32), minus_infinity, minus_infinity),
            jnp.full(sentences, beam_size),
        )

    def is_unfinished(beam):
        return jnp.any(beam.log_probs > -jnp.inf, axis=1)

    def result(beam):
        finished = beam.finished
        found = finished.scores > -jnp.inf
        finished = finished._replace(tokens=jnp.where(found[..., None], finished.tokens, 0))
        return BeamResult(*(field[:, :n_best] for field in finished))

    def resize(beam):
        finished = beam.finished
        return beam._replace(
            tokens=resize_last_axis(beam.tokens, max_length),
            finished=finished._replace(tokens=resize_last_axis(finished.tokens, max_length)),
        )

    return SearchProgram(start, extend, is_unfinished, result, resize)


def _sentences_at_once(project: Project, outputs: jax.Array, sentences: int) -> int:
    """How many sentences to project and search at a time.

    As many as a CPU's cache holds the logits of, but so many rows that reading the table again for
    each part does not take longer: of 32,000 rows of width 512, parts of 64 rows take 1.2 times as
    long as all at once.
    """
    if jax.default_backend() != "cpu" or not isinstance(sentences, int):  # as in jax.export
        return sentences
    vocabulary = jax.eval_shape(project, outputs).shape[-1]
    rows = max(LOGITS_AT_ONCE // vocabulary, 2 * outputs.shape[-1])
    most = min(max(rows * sentences // outputs.shape[0], 1), sentences)
    # Parts without padding, unless they were small.
    even = max(size for size in range(1, most + 1) if sentences % size == 0)
    return even if 2 * even > most else -(-sentences // -(-sentences // most))


def _map_sentences(function, block: int, sentences: int, arrays):
    """function(*arrays) of so many sentences at a time; each array has a row, or as many, for each
    sentence, and so have the results."""
    if block == sentences:
        return function(*arrays)
    parts = -(-sentences // block)

    def cut(x):
        each = x.shape[0] // sentences
        room = [(0, (parts * block - sentences) * each), *[(0, 0)] * (x.ndim - 1)]
        return jnp.pad(x, room).reshape(parts, block * each, *x.shape[1:])

    found = jax.lax.map(lambda each: function(*each), list(map(cut, arrays)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:sentences], found)


def _take(values, indices):
    """values [B, W, ...] at indices [B, C] -> [B, C, ...]."""
    return jnp.take_along_axis(values, indices.reshape(*indices.shape, *[1] * (values.ndim - 2)), 1)


def _merge(old: BeamResult, new: BeamResult) -> BeamResult:
    """The best W by score of the W old and C new ones."""
    joined = BeamResult(*(jnp.concatenate(pair, axis=1) for pair in zip(old, new)))
    _, chosen = jax.lax.top_k(joined.scores, old.scores.shape[1])
    return BeamResult(*(_take(field, chosen) for field in joined))
