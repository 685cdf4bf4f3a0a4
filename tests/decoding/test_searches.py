import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.decoding.tables import EOS, beam_by_hand, exhaustive, forced, table_step
from transformer_jax.decoding.beam import beam_program, beam_search, length_divisor
from transformer_jax.decoding.greedy import greedy_search
from transformer_jax.decoding.sampling import filter_logits, sample

PENALTIES = {
    "gnmt": lambda n, a: ((5 + n) / 6) ** a,
    "power": lambda n, a: n**a,
    "none": lambda n, a: 1.0,
}


@functools.partial(
    jax.jit, static_argnames=("beam_size", "max_length", "n_best", "length_penalty", "eos_rule")
)
def beam(tables, limits, alpha=0.6, *, beam_size, max_length, **options):
    step, cache = table_step(tables, beam_size)
    return beam_search(
        step, cache, limits=limits, beam_size=beam_size, max_length=max_length, alpha=alpha,
        **options,
    )  # fmt: skip


def tables(count, size, seed=0, spread=2.0):
    draws = np.random.default_rng(seed).normal(size=(count, size, size)) * spread
    return jnp.asarray(draws, jnp.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("alpha", [0.6, 2.0, -1.0])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("eos_rule", ["shrink", "t2t"])
def test_beam_wide_equals_exhaustive_search(penalty, alpha, eos_rule):
    size, limit, models, n_best = 3, 4, 24, 3
    drawn = tables(models, size)
    found = beam(
        drawn, jnp.full(models, limit), alpha, beam_size=size ** (limit - 1), max_length=limit,
        n_best=n_best, length_penalty=penalty, eos_rule=eos_rule,
    )  # fmt: skip
    for b in range(models):
        best = exhaustive(drawn[b], limit, lambda n: PENALTIES[penalty](n, alpha))
        for k in range(n_best):
            score, tokens = best[k]
            assert found.tokens[b, k, : found.lengths[b, k]].tolist() == tokens
            np.testing.assert_allclose(found.scores[b, k], score, rtol=1e-4)


@pytest.mark.parametrize("beam_size", [2, 3])
@pytest.mark.parametrize("eos_rule", ["shrink", "t2t"])
def test_beam_narrow_equals_search_by_hand(eos_rule, beam_size):
    """Where the beam is too narrow to find everything, which hypotheses end is the rule's."""
    models, limit = 40, 8
    drawn = tables(models, 6, seed=7)
    found = beam(
        drawn, jnp.full(models, limit), beam_size=beam_size, max_length=limit, n_best=2,
        length_penalty="gnmt", eos_rule=eos_rule,
    )  # fmt: skip
    for b in range(models):
        best = beam_by_hand(
            drawn[b], limit, lambda n: PENALTIES["gnmt"](n, 0.6), beam_size, eos_rule
        )
        for k in range(2):
            assert found.tokens[b, k, : found.lengths[b, k]].tolist() == best[k][1]
            np.testing.assert_allclose(found.scores[b, k], best[k][0], rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("penalty", PENALTIES)
def test_beam_of_one_equals_greedy(penalty):
    drawn, limits = tables(64, 7, seed=1), jnp.full(64, 9)
    found = beam(drawn, limits, beam_size=1, max_length=9, n_best=1, length_penalty=penalty)
    step, cache = table_step(drawn, 1)
    greedy = greedy_search(step, cache, limits=limits, max_length=9)
    np.testing.assert_array_equal(found.tokens[:, 0], greedy.tokens)
    np.testing.assert_array_equal(found.lengths[:, 0], greedy.lengths)
    np.testing.assert_allclose(found.log_probs[:, 0], greedy.log_probs.sum(1), rtol=1e-5)


def test_early_stopping_saves_steps():
    """A counter in the cache tells how many steps were taken."""
    drawn = tables(8, 5, seed=2).at[:, :, EOS].set(9.0)  # ending at once is by far the best
    steps = []
    step, cache = table_step(drawn, 4)

    def counting(cache, tokens, parents):
        jax.debug.callback(lambda: steps.append(1))
        return step(cache, tokens, parents)

    beam_search(counting, cache, limits=jnp.full(8, 30), max_length=30, beam_size=4)
    greedy_search(table_step(drawn, 1)[0], jnp.zeros(8), limits=jnp.full(8, 30), max_length=30)
    jax.effects_barrier()
    assert len(steps) <= 2


@pytest.mark.parametrize("search", [greedy_search, beam_search])
def test_length_limits_stay_within_arrays(search):
    drawn = tables(4, 5, seed=4).at[:, :, EOS].set(-30.0)
    beams = {"beam_size": 2} if search is beam_search else {}
    step, cache = table_step(drawn, beams.get("beam_size", 1))
    found = search(step, cache, limits=jnp.full(4, 9), max_length=3, **beams)
    tokens = found.tokens.reshape(4, 3)
    assert (tokens[:, 2] == EOS).all()
    assert (found.lengths == 3).all()


def test_early_stopping_changes_no_result():
    """Searching on to the limit finds nothing better than stopping when the bound says so."""
    drawn = tables(40, 5, seed=2)
    short = beam(drawn, jnp.full(40, 12), 1.0, beam_size=4, max_length=12, n_best=1)
    # Asking for all four keeps the search going until the fourth cannot be beaten.
    long = beam(drawn, jnp.full(40, 12), 1.0, beam_size=4, max_length=12, n_best=4)
    np.testing.assert_array_equal(short.tokens[:, 0], long.tokens[:, 0])
    assert bool((jnp.diff(long.scores, axis=1) <= 0).all())


def test_early_stopping_uses_the_most_lenient_penalty():
    """With alpha 2 a long hypothesis may win: -0.298 at length 30 beats -0.344 at length 2.

    A bound that knows the penalty of the next length alone stops there.
    """
    second = jnp.log(jnp.array([1e-9, 0.626, 0.374]))
    later = jnp.log(jnp.array([1e-9, 0.25, 0.75]))

    def step(position, tokens, parents):
        first = jnp.array([-20.0, -20.0, 0.0])
        logits = jnp.where(position == 0, first, jnp.where(position == 1, second, later))
        return position + 1, jnp.tile(logits, (2, 1))

    found = beam_search(
        step, jnp.zeros((), jnp.int32), limits=jnp.array([30]), max_length=30, beam_size=2,
        alpha=2.0,
    )  # fmt: skip
    expected = (np.log(0.374) + 27 * np.log(0.75) + np.log(0.25)) / (35 / 6) ** 2
    assert found.lengths[0, 0] == 30
    np.testing.assert_allclose(found.scores[0, 0], expected, rtol=1e-5)
    assert expected > np.log(0.626) / (7 / 6) ** 2


def test_allowed_mask_does_not_renormalize():
    """A mask over the vocabulary restricts what may be chosen, not what it costs."""
    drawn, limits = tables(16, 7, seed=5), jnp.full(16, 6)
    mask = jnp.array([[False, True, True, False, True, True, False]])

    def allowed(cache):
        return mask

    found = beam_search(
        *table_step(drawn, 3), limits=limits, max_length=6, beam_size=3, allowed=allowed
    )
    greedy = greedy_search(*table_step(drawn, 1), limits=limits, max_length=6, allowed=allowed)
    rngs = jax.random.split(jax.random.key(0), 16)
    drawn_tokens = sample(*table_step(drawn, 1), rngs, limits=limits, max_length=6, allowed=allowed)
    for tokens, log_probs in (
        (found.tokens[:, 0], found.log_probs[:, 0]),
        (greedy.tokens, greedy.log_probs.sum(1)),
        (drawn_tokens.tokens, drawn_tokens.log_probs.sum(1)),
    ):
        assert not np.isin(tokens, [3, 6]).any()
        found_again = forced(*table_step(drawn, 1), tokens)
        np.testing.assert_allclose(log_probs, found_again.log_probs.sum(1), rtol=1e-5)


@pytest.mark.parametrize("eos_rule", ["shrink", "t2t"])
def test_beam_is_independent_of_batch_and_padding(eos_rule):
    drawn = tables(64, 6, seed=3)
    limits = jnp.asarray(np.random.default_rng(0).integers(2, 9, 64))
    run = functools.partial(beam, beam_size=3, n_best=2, length_penalty="gnmt", eos_rule=eos_rule)
    whole = run(drawn, limits, max_length=8)
    for size, length in ((1, 8), (7, 8), (7, 13)):
        part = run(drawn[:size], limits[:size], max_length=length)
        np.testing.assert_array_equal(part.tokens[..., :8], whole.tokens[:size])
        np.testing.assert_array_equal(part.scores, whole.scores[:size])
        assert not part.tokens[..., 8:].any()


@pytest.mark.parametrize("per_row", [False, True])
def test_beam_over_blocks_of_sentences_finds_the_same(per_row, monkeypatch):
    """Logits made of features, of a few sentences at a time; one mask of all rows, or of each."""
    sentences, beams, size = 12, 3, 11
    step, cache = table_step(tables(sentences, size), beams)
    rows = jnp.arange(sentences * beams)[:, None]
    tokens = jnp.arange(size)[None]
    mask = (rows // beams + tokens) % 5 != 0 if per_row else tokens % 5 != 0
    options = {
        "limits": jnp.arange(sentences) % 4 + 3, "max_length": 7, "beam_size": beams, "n_best": 2,
        "length_penalty": "gnmt", "alpha": 0.6, "eos_rule": "shrink", "start_id": 0,
        "eos_id": EOS, "allowed": lambda cache: mask | (tokens == EOS),
    }  # fmt: skip
    expected = beam_search(step, cache, **options)
    sizes = []

    def whole(cache, tokens, parents):
        cache, logits = step(cache, tokens, parents)
        return cache, logits[:, None]

    def project(features):
        sizes.append(len(features))
        return features[:, 0]

    monkeypatch.setattr("transformer_jax.decoding.beam.LOGITS_AT_ONCE", 1)
    found = beam_program(whole, project=project, **options).run(cache)
    # Not fewer rows than twice the width of the features, and a divisor of the sentences.
    assert set(sizes) == {36, 18}
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_length_limits_are_per_sentence():
    drawn = tables(8, 5, seed=4).at[:, :, EOS].set(-30.0)  # nobody wants to end
    limits = jnp.array([1, 2, 3, 4, 5, 6, 7, 0])
    found = beam(drawn, limits, beam_size=2, max_length=7, n_best=1)
    np.testing.assert_array_equal(found.lengths[:, 0], limits)
    assert found.scores[7, 0] == -jnp.inf
    for b in range(7):
        assert found.tokens[b, 0, limits[b] - 1] == EOS


def test_length_penalties():
    np.testing.assert_allclose(length_divisor(7, "gnmt", 0.6), 2**0.6, rtol=1e-6)
    np.testing.assert_allclose(length_divisor(9, "power", 0.5), 3, rtol=1e-6)
    assert length_divisor(9, "none", 0.5) == 1
    with pytest.raises(ValueError, match="'log' is not one of gnmt, power, none"):
        length_divisor(9, "log", 1.0)
    with pytest.raises(ValueError, match="eos_rule 'first' is not one of shrink, t2t"):
        beam(tables(1, 4), jnp.array([3]), beam_size=2, max_length=3, eos_rule="first")


SEARCHES = {
    "greedy": greedy_search,
    "beam": functools.partial(beam_search, beam_size=1),
    "sample": lambda step, cache, **options: sample(
        step, cache, jax.random.split(jax.random.key(0), 2), **options
    ),
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize(
    "error, message, options",
    [
        (ValueError, r"the shape of the limits is \(\), not \[N\]", {"limits": jnp.array(3)}),
        (TypeError, "the limits are float32: they must be", {"limits": jnp.array([3.0, 2.0])}),
        (ValueError, "max_length 0 has no room", {"max_length": 0}),
        (ValueError, "eos_id 5 is not one of the step's 5 tokens", {"eos_id": 5}),
        (ValueError, "eos_id -1 is not one of", {"eos_id": -1}),
        (ValueError, r"logits have shape \(3, 5\), not \(2, V\)", {"logits": (3, 5)}),
        (ValueError, r"logits have shape \(2, 1, 5\)", {"logits": (2, 1, 5)}),
        (TypeError, "the mask is float32: masks are boolean, True = may be chosen",
         {"allowed": lambda cache: jnp.ones((2, 5))}),
        (ValueError, r"the mask has shape \(5,\): it must broadcast to \(2, 5\)",
         {"allowed": lambda cache: jnp.ones(5, bool)}),
        (ValueError, r"the mask has shape \(2, 4\)",
         {"allowed": lambda cache: jnp.ones((2, 4), bool)}),
    ],
)  # fmt: skip
def test_searches_reject_invalid_arguments(search, error, message, options):
    options = {"limits": jnp.array([3, 2]), "max_length": 4, "eos_id": 1, **options}
    shape = options.pop("logits", (2, 5))
    with pytest.raises(error, match=message):
        search(lambda cache, tokens, parents: (cache, jnp.zeros(shape)), None, **options)


def test_scores_teacher_forced_equal_those_of_the_search():
    drawn = tables(16, 6, seed=5).at[:, :, 0].set(-30.0)  # 0 is padding in a given target
    found = beam(drawn, jnp.full(16, 8), beam_size=3, max_length=8, n_best=1)
    step, cache = table_step(drawn, 1)
    again = forced(step, cache, found.tokens[:, 0])
    np.testing.assert_allclose(again.log_probs.sum(1), found.log_probs[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(again.lengths, found.lengths[:, 0])


def test_scores_of_non_tokens_are_nan():
    step = lambda cache, tokens, parents: (cache, jnp.zeros((3, 4)))  # noqa: E731
    found = forced(step, None, jnp.array([[-1, 1], [9, 1], [3, 1]])).log_probs
    np.testing.assert_array_equal(jnp.isnan(found[:, 0]), [True, True, False])


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_samples_are_independent_of_rows_with_any_generator(generator):
    rngs = jax.random.split(jax.random.key(0, impl=generator), 4)

    def drawn(rngs):
        count = len(rngs)
        step = lambda cache, tokens, parents: (cache, jnp.zeros((count, 50)))  # noqa: E731
        return sample(step, None, rngs, limits=jnp.full(count, 6), max_length=6).tokens

    np.testing.assert_array_equal(drawn(rngs)[2:], drawn(rngs[2:]))


def test_filter_logits():
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.3, 0.2], [0.7, 0.1, 0.1, 0.1]]))

    def kept(**options):
        return (filter_logits(logits, **options) > -jnp.inf).astype(int).tolist()

    assert kept(top_k=2) == [[0, 1, 1, 0], [1, 1, 1, 1]]  # ties at the border stay
    assert kept(top_p=0.65) == [[0, 1, 1, 0], [1, 0, 0, 0]]
    assert kept(top_p=1e-9) == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert kept() == [[1] * 4] * 2
    hot = jax.nn.softmax(filter_logits(logits, temperature=2.0))
    np.testing.assert_allclose(hot, jax.nn.softmax(logits / 2), rtol=1e-6)
    assert kept(top_k=3)[0] == [0, 1, 1, 1]
    deep = filter_logits(jnp.stack([logits, logits[::-1]]), top_k=2, top_p=0.65)  # any leading axes
    np.testing.assert_array_equal(deep[1], filter_logits(logits[::-1], top_k=2, top_p=0.65))
    nan, inf = float("nan"), float("inf")
    for bad in (
        {"temperature": 0.0}, {"temperature": nan}, {"temperature": inf}, {"top_k": -1},
        {"top_p": 0.0}, {"top_p": nan},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(bad))):
            filter_logits(logits, **bad)


def test_sampling_follows_the_distribution_and_ignores_other_rows():
    table = tables(1, 4, seed=6)
    rows = 4000
    step, cache = table_step(jnp.broadcast_to(table, (rows, 4, 4)), 1)
    rngs = jax.random.split(jax.random.key(0), rows)
    limits = jnp.full(rows, 3)
    drawn = sample(step, cache, rngs, limits=limits, max_length=3)
    _, logits = table_step(table, 1)[0](jnp.zeros(1), jnp.array([0]), None)
    expected = np.asarray(jax.nn.softmax(logits))[0]
    shares = np.bincount(np.asarray(drawn.tokens[:, 0]), minlength=4) / rows
    assert np.abs(shares - expected).max() < 5 * np.sqrt(0.25 / rows)
    step, cache = table_step(table, 1)
    alone = sample(step, cache, rngs[7:8], limits=limits[:1], max_length=3)
    np.testing.assert_array_equal(alone.tokens[0], drawn.tokens[7])


def test_sampling_follows_its_options():
    table = tables(1, 6, seed=6)
    rows = 3000
    step, cache = table_step(jnp.broadcast_to(table, (rows, 6, 6)), 1)
    rngs = jax.random.split(jax.random.key(1), rows)
    _, logits = table_step(table, 1)[0](jnp.zeros(1), jnp.array([0]), None)
    for options in ({"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.5}):
        drawn = sample(step, cache, rngs, limits=jnp.full(rows, 2), max_length=2, **options)
        expected = np.asarray(jax.nn.softmax(filter_logits(logits, **options)))[0]
        shares = np.bincount(np.asarray(drawn.tokens[:, 0]), minlength=6) / rows
        assert np.abs(shares - expected).max() < 5 * np.sqrt(0.25 / rows)
        assert not shares[expected == 0].any()


def test_greedy_and_samples_are_independent_of_batch():
    drawn = tables(64, 6, seed=3)
    limits = jnp.asarray(np.random.default_rng(0).integers(2, 9, 64))
    rngs = jax.random.split(jax.random.key(2), 64)

    def both(size, length):
        step, cache = table_step(drawn[:size], 1)
        greedy = greedy_search(step, cache, limits=limits[:size], max_length=length)
        sampled = sample(step, cache, rngs[:size], limits=limits[:size], max_length=length)
        return greedy, sampled

    whole = both(64, 8)
    for size, length in ((1, 8), (7, 8), (7, 13)):
        for part, all_rows in zip(both(size, length), whole):
            np.testing.assert_array_equal(part.tokens[:, :8], all_rows.tokens[:size])
            np.testing.assert_array_equal(part.log_probs[:, :8], all_rows.log_probs[:size])
