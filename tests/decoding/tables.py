"""Random language models as tables, and searches done by trying everything."""

import itertools

import jax.numpy as jnp
import numpy as np

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


def exhaustive(table, limit, penalty):
    """Every hypothesis that ends in EOS within `limit`: list of (score, tokens), best first."""
    table = np.asarray(table, np.float64)
    size = table.shape[-1]
    found = []

    def extend(history, tokens, log_prob):
        last = tokens[-1] if tokens else 0
        history = history * 3 + last
        logits = table[last] + np.sin(history + np.arange(size))
        log_probs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        length = len(tokens) + 1
        found.append(((log_prob + log_probs[EOS]) / penalty(length), [*tokens, EOS]))
        if length < limit:
            for token in itertools.chain(range(EOS), range(EOS + 1, size)):
                extend(history, [*tokens, token], log_prob + log_probs[token])

    extend(0, [], 0.0)
    return sorted(found, reverse=True)
