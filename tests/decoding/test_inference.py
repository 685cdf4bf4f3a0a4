"""Searches with the network: batches, beams and caches change nothing but rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import ModelConfig, Transformer
from transformer_jax.decoding.inference import BatchDecoder
from transformer_jax.decoding.options import Search
from transformer_jax.functional import token_log_probs

CONFIG = ModelConfig(vocab_size=13, d_model=16, d_ff=24, num_heads=2, num_layers=1, dropout=0.0)
SOURCES = [[4, 5, 6], [7, 8, 9, 10, 11, 12, 4, 5, 6], [12], [5, 5], [9, 8, 7, 6, 5], [10], [11, 4]]


@pytest.fixture(scope="module")
def inference():
    model = Transformer(CONFIG)
    tokens = jnp.ones((1, 1), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(3), tokens, tokens)["params"]
    sharp = {**params, "embedding": params["embedding"] * 3}
    # Sharper than an untrained model, so that rounding does not decide between tokens.
    return BatchDecoder(model, {"params": sharp}, batch_tokens=96)


def teacher_forced(inference, source, target):
    return jax.jit(inference._model.apply)(
        inference.variables, jnp.array([[*source, 1]]), jnp.array([[*target, 1]])
    )


def test_translation_is_independent_of_batch(inference):
    search = Search(beam_size=3, n_best=2, extra_length=6)
    together = inference.translate(SOURCES, search)
    for source, expected in list(zip(SOURCES, together))[:3]:
        alone = inference.translate([source], search)[0]
        assert [h.ids for h in alone] == [h.ids for h in expected]
        np.testing.assert_allclose([h.score for h in alone], [h.score for h in expected], rtol=1e-5)


def test_samples_come_best_first(inference):
    search = Search(method="sample", n_best=6, extra_length=6, seed=2)
    for found in inference.translate(SOURCES[:3], search):
        scores = [each.score for each in found]
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) > 1


def test_log_probs_are_those_of_the_full_forward(inference):
    found = inference.translate(SOURCES[:2], Search(beam_size=3, extra_length=6))
    forced = inference.score(SOURCES[:2], [best[0].ids for best in found])
    for source, best, parts in zip(SOURCES, found, forced):
        target = jnp.array([[*best[0].ids, 1]])
        logits = teacher_forced(inference, source, best[0].ids)
        np.testing.assert_allclose(parts, token_log_probs(logits, target)[0], rtol=1e-4, atol=1e-5)
        # What a search may not choose takes its share of the probability all the same.
        np.testing.assert_allclose(best[0].log_prob, parts.sum(), rtol=1e-5)


def test_length_buckets_isolate_one_long_sentence(inference):
    """1,000 sentences in full batches of a power of two, the long one alone."""
    sources = [[4, 5, 6]] * 1000 + [[7] * 500]
    groups = [(len(group), rows.shape) for group, rows in inference._length_buckets(sources)]
    # 96 slots hold 8 sentences of 8 slots.
    assert groups == [(8, (8, 8))] * 125 + [(1, (1, 512))]


def test_scoring_more_text_compiles_no_more_programs():
    """Shapes are few by themselves, whatever lengths come together."""
    decoder, random = BatchDecoder(Transformer(CONFIG), {}), np.random.default_rng(0)
    shapes = set()
    for _ in range(40):
        lengths = np.clip(random.lognormal(3.2, 0.6, (2, 1000)), 1, 250).astype(int)
        sources, targets = ([[5] * length for length in side] for side in lengths)
        groups = [*decoder._length_buckets(sources, targets)]
        assert all(
            rows.shape[1] >= max(len(each[i]) for each in (sources, targets) for i in group)
            for group, rows in groups
        )
        shapes.update(rows.shape for _, rows in groups)
    assert len(shapes) <= 16


def test_greedy_equals_beam_one_within_limits(inference):
    greedy = inference.translate(SOURCES, Search(method="greedy", extra_length=4))
    one = inference.translate(SOURCES, Search(beam_size=1, extra_length=4))
    for source, a, b in zip(SOURCES, greedy, one):
        assert a[0].ids == b[0].ids
        assert len(a[0].ids) < len(source) + 4
        assert not {0, 1, 3} & set(a[0].ids)


def test_samples_repeat_with_their_seed(inference):
    search = Search(method="sample", n_best=3, extra_length=4, seed=5)
    first, again = (inference.translate(SOURCES[:3], search) for _ in range(2))
    assert first == again
    assert all(len(samples) == 3 for samples in first)
    other = inference.translate(SOURCES[:3], Search(method="sample", n_best=3, extra_length=4))
    assert first != other
