"""Beam search as one jitted loop (section 6.1)."""

from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp

from transformer_jax.decoding.options import EosRule, LengthPenalty
from transformer_jax.decoding.rows import Allowed, Step, check_limits, next_log_probs

__all__ = ["BeamResult", "beam_search", "length_divisor"]


class BeamResult(NamedTuple):
    """Best first. tokens [B, n, T] int32, 0 after EOS; lengths [B, n], EOS included.

    log_probs [B, n] are sums over tokens, scores [B, n] those divided by the penalty; -inf marks
    places for which no hypothesis was found.
    """

    tokens: jax.Array
    lengths: jax.Array
    log_probs: jax.Array
    scores: jax.Array


def length_divisor(length, kind: LengthPenalty, alpha: float):
    """What a hypothesis' log-probability is divided by; `length` counts EOS.

    gnmt   ((5 + length) / 6)^alpha   the paper's (Wu et al. 2016, equation 14)
    power  length^alpha               fairseq, Marian, Hugging Face
    none   1

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
    raise ValueError(f"length penalty {kind!r} is none of gnmt, power, none")


class _Beam(NamedTuple):
    """W hypotheses a sentence still growing, and the W best that ended."""

    position: jax.Array
    cache: Any
    parents: jax.Array
    last: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    done: BeamResult
    places: jax.Array


def beam_search(
    step: Step,
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
    """The `n_best` hypotheses of B sentences by log-probability / length_penalty.

    `cache` has B * beam_size rows, sentence after sentence; hypotheses of sentence b have EOS as
    token number limits[b] at the latest, or max_length if that is less. A sentence ends once no
    growing hypothesis, however it goes on, can beat the worst of its n_best: log-probabilities
    only fall, so the bound is the best growing one divided by the most lenient penalty ahead.

    eos_rule "shrink": of the best `beam_size` continuations those with EOS end, and each takes its
    place in the beam with it, so that the beam narrows and beam 1 is greedy search.
    eos_rule "t2t": tensor2tensor looks for EOS among the best 2 * beam_size continuations and the
    beam stays full. ValueError for another rule, length penalty or an n_best beyond the beam.

    >>> table = jnp.log(jnp.array([[0.0, 0.4, 0.6], [0.0, 1.0, 0.0], [0.0, 0.9, 0.1]]))
    >>> step = lambda cache, tokens, parents: (cache, table[tokens])
    >>> best = beam_search(step, None, limits=jnp.array([8]), max_length=8, beam_size=2)
    >>> best.tokens[0, 0, :3].tolist(), f"{best.log_probs[0, 0]:.3f}"
    ([2, 1, 0], '-0.616')
    """
    if not 1 <= n_best <= beam_size:
        raise ValueError(f"n_best {n_best} must be between 1 and beam_size {beam_size}")
    if eos_rule not in get_args(EosRule):
        raise ValueError(f"eos_rule {eos_rule!r} is none of {', '.join(get_args(EosRule))}")
    check_limits(limits, max_length)
    limits = jnp.minimum(limits, max_length)
    sentences = limits.shape[0]
    candidates = beam_size if eos_rule == "shrink" else 2 * beam_size
    first_row = jnp.arange(sentences)[:, None] * beam_size

    def continuations(beam):
        """The best continuations: cache, log-probabilities, parent beams, tokens, each [B, C]."""
        rows = (beam.last.reshape(-1), beam.parents.reshape(-1))
        cache, log_probs = next_log_probs(step, beam.cache, *rows, allowed, eos_id)
        vocabulary = log_probs.shape[-1]
        log_probs = log_probs.reshape(sentences, beam_size, vocabulary)
        must_end = (beam.position + 1 >= limits)[:, None, None]
        is_eos = jnp.arange(vocabulary)[None, None] == eos_id
        log_probs = jnp.where(must_end & ~is_eos, -jnp.inf, log_probs)
        total = (beam.log_probs[..., None] + log_probs).reshape(sentences, -1)
        best, index = jax.lax.top_k(total, candidates)
        return cache, best, index // vocabulary, (index % vocabulary).astype(jnp.int32)

    def extend(beam):
        cache, log_probs, parents, last = continuations(beam)
        if eos_rule == "shrink":
            inside = jnp.arange(candidates)[None] < beam.places[:, None]
            log_probs = jnp.where(inside, log_probs, -jnp.inf)
        tokens = _take(beam.tokens, parents).at[:, :, beam.position].set(last)
        length = beam.position + 1
        ended = last == eos_id
        ended_log_probs = jnp.where(ended, log_probs, -jnp.inf)
        done = _merge(
            beam.done,
            BeamResult(
                tokens,
                jnp.full_like(last, length),
                ended_log_probs,
                ended_log_probs / length_divisor(length, length_penalty, alpha),
            ),
        )
        growing, chosen = jax.lax.top_k(jnp.where(ended, -jnp.inf, log_probs), beam_size)
        # Of the penalties still ahead the first or the last is the most lenient.
        hope = growing[:, 0] / jnp.maximum(
            length_divisor(length + 1, length_penalty, alpha),
            length_divisor(limits, length_penalty, alpha),
        )
        decided = hope <= done.scores[:, n_best - 1]
        return _Beam(
            length,
            cache,
            first_row + _take(parents, chosen),
            _take(last, chosen),
            _take(tokens, chosen),
            jnp.where(decided[:, None], -jnp.inf, growing),
            done,
            beam.places - jnp.sum(ended_log_probs > -jnp.inf, axis=1),
        )

    def running(beam):
        return (beam.position < max_length) & jnp.any(beam.log_probs > -jnp.inf)

    shape = (sentences, beam_size)
    nothing = jnp.full(shape, -jnp.inf, jnp.float32)
    no_tokens = jnp.zeros((*shape, max_length), jnp.int32)
    # All beams start equal: only the first counts, or every hypothesis would be found W times.
    only_first = nothing.at[:, 0].set(jnp.where(limits > 0, 0.0, -jnp.inf))
    start = _Beam(
        jnp.zeros((), jnp.int32),
        cache,
        first_row + jnp.arange(beam_size)[None],
        jnp.full(shape, start_id, jnp.int32),
        no_tokens,
        only_first,
        BeamResult(no_tokens, jnp.zeros(shape, jnp.int32), nothing, nothing),
        jnp.full(sentences, beam_size),
    )
    done = jax.lax.while_loop(running, extend, start).done
    found = done.scores > -jnp.inf
    done = done._replace(tokens=jnp.where(found[..., None], done.tokens, 0))
    return BeamResult(*(field[:, :n_best] for field in done))


def _take(values, indices):
    """values [B, W, ...] at indices [B, C] -> [B, C, ...]."""
    return jnp.take_along_axis(values, indices.reshape(*indices.shape, *[1] * (values.ndim - 2)), 1)


def _merge(old: BeamResult, new: BeamResult) -> BeamResult:
    """The best W by score of the W old and C new ones."""
    joined = BeamResult(*(jnp.concatenate(pair, axis=1) for pair in zip(old, new)))
    _, chosen = jax.lax.top_k(joined.scores, old.scores.shape[1])
    return BeamResult(*(_take(field, chosen) for field in joined))
