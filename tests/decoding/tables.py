"""Random language models as tables, and searches done by trying everything."""

import itertools

import jax.numpy as jnp
import numpy as np

from transformer_jax.decoding.rows import rows_program

EOS = 1


def table_step(tables, beams):
    """Step over tables [B, V, V]: logits of a row depend on its sentence and its last token.

    The cache holds each row's number of tokens and the sum of its ids, so a search that follows
    the wrong parents goes wrong too.
    """
    sentences = jnp.repeat(jnp.arange(tables.shape[0]), beams)

    def step(cache, tokens, parents):
        history = cache if parents is None else cache[parents]
        history = history * 3 + tokens.astype(jnp.float32)
        wave = jnp.sin(history[:, None] + jnp.arange(tables.shape[-1], dtype=jnp.float32)[None])
        return history, tables[sentences, tokens] + wave

    return step, jnp.zeros(len(sentences), jnp.float32)


def forced(step, cache, targets):
    """What a search would find if it had to write `targets` [N, T], each ending in EOS."""
    return rows_program(
        step,
        lambda log_probs, position: jnp.take_along_axis(targets, position[:, None], axis=1)[:, 0],
        limits=jnp.sum(targets != 0, axis=1),
        max_length=targets.shape[1],
        start_id=0,
        eos_id=EOS,
    ).run(cache)


def exhaustive(table, limit, penalty):
    """Every hypothesis that ends in EOS within `limit`: list of (score, tokens), best first."""
    table = np.asarray(table, np.float64)
    size = table.shape[-1]
    found = []

    def extend(history, tokens, log_prob):
        history, log_probs = _read(table, history, tokens)
        length = len(tokens) + 1
        found.append(((log_prob + log_probs[EOS]) / penalty(length), [*tokens, EOS]))
        if length < limit:
            for token in itertools.chain(range(EOS), range(EOS + 1, size)):
                extend(history, [*tokens, token], log_prob + log_probs[token])

    extend(0, [], 0.0)
    return sorted(found, reverse=True)


def beam_by_hand(table, limit, penalty, beam_size, eos_rule):
    """Beam search of one sentence with lists and loops, to the limit, never stopping early."""
    table = np.asarray(table, np.float64)
    alive, ended, places = [(0.0, [], 0.0)], [], beam_size
    for length in range(1, limit + 1):
        found = []
        for log_prob, tokens, history in alive:
            after, log_probs = _read(table, history, tokens)
            for token in range(len(table)) if length < limit else [EOS]:
                found.append((log_prob + log_probs[token], [*tokens, token], after))
        found.sort(key=lambda hypothesis: -hypothesis[0])
        best = found[:places] if eos_rule == "shrink" else found[: 2 * beam_size]
        now_ended = [hypothesis for hypothesis in best if hypothesis[1][-1] == EOS]
        ended += [(log_prob / penalty(length), tokens) for log_prob, tokens, _ in now_ended]
        places -= len(now_ended) if eos_rule == "shrink" else 0
        alive = [hypothesis for hypothesis in best if hypothesis[1][-1] != EOS][:beam_size]
    return sorted(ended, reverse=True)


def _read(table, history, tokens):
    last = tokens[-1] if tokens else 0
    history = history * 3 + last
    logits = table[last] + np.sin(history + np.arange(len(table)))
    return history, logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
