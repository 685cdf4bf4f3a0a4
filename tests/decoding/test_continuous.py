"""Sentences that come and go in one batch find what each finds alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import ModelConfig, Transformer, generate
from transformer_jax.decoding import continuous
from transformer_jax.decoding.continuous import ContinuousSearch
from transformer_jax.decoding.options import Search
from transformer_jax.decoding.waiting import Waiting

CONFIG = ModelConfig(
    vocab_size=23, max_positions=95, d_model=16, d_ff=24, num_heads=2, num_layers=1, dropout=0.0,
    tied_embeddings="none",
)  # fmt: skip
LENGTHS = [3, 90, *np.random.default_rng(0).integers(2, 40, 36).tolist(), 60, 1]
# A model that is not trained ends late or never: limits make lengths.
LIMITS = [length + extra for length, extra in zip(LENGTHS, [4, 12, 60, 30] * 10)]
SEARCHES = {
    "beam": Search(beam_size=3, n_best=2, extra_length=60),
    "t2t": Search(beam_size=4, eos_rule="t2t", length_penalty="power", extra_length=60),
    "greedy": Search(method="greedy", extra_length=60),
    "sample": Search(method="sample", n_best=2, extra_length=60, seed=3),
}


def built(config):
    model = Transformer(config)
    tokens = jnp.ones((1, 1), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(3), tokens, tokens)["params"]
    # Large enough that tokens and places matter.
    return model, {"params": jax.tree.map(lambda x: x * 2 if x.ndim > 1 else x, params)}


@functools.cache
def alone(name, position_encoding="paper"):
    """What `generate` finds for each sentence, all padded to one width."""
    config = ModelConfig(**{**vars(CONFIG), "position_encoding": position_encoding})
    model, variables = built(config)
    sources = np.zeros((len(LENGTHS), max(LENGTHS) + 1), np.int32)
    for row, ids in zip(sources, rows()):
        row[: len(ids)] = ids
    numbers = np.stack([np.arange(len(LENGTHS)), np.zeros(len(LENGTHS), int)], axis=1)
    return generate(
        model, variables["params"], jnp.asarray(sources), SEARCHES[name],
        limits=jnp.asarray(LIMITS), sample_ids=jnp.asarray(numbers),
    )  # fmt: skip


def rows():
    drawn = np.random.default_rng(1)
    return [[*drawn.integers(4, 23, length).tolist(), 1] for length in LENGTHS]


def compiled(function, arguments, gathered=None, donate=()):
    return jax.jit(function, donate_argnums=donate)


def together(name, batch_tokens, position_encoding="paper"):
    config = ModelConfig(**{**vars(CONFIG), "position_encoding": position_encoding})
    model, variables = built(config)
    search = SEARCHES[name].with_options(batch_tokens=batch_tokens)
    limit = config.max_positions if position_encoding == "learned" else 10**6
    found = ContinuousSearch(model, search, compiled, 1, limit)
    numbers = np.stack([np.arange(len(LENGTHS)), np.zeros(len(LENGTHS), int)], axis=1)
    return found, dict(found(variables, rows(), LIMITS, numbers))


@pytest.mark.parametrize(
    ("name", "batch_tokens", "position_encoding"),
    [
        ("beam", 512, "paper"),
        ("greedy", 200, "learned"),
        *(
            pytest.param(name, 340, "paper", marks=pytest.mark.slow)
            for name in ("t2t", "greedy", "sample")
        ),
    ],
)
def test_sentences_find_what_they_find_alone(name, batch_tokens, position_encoding):
    expected = alone(name, position_encoding)
    _, found = together(name, batch_tokens, position_encoding)
    assert sorted(found) == list(range(len(LENGTHS)))
    for i, one in found.items():
        np.testing.assert_array_equal(one.lengths, expected.lengths[i])
        for mine, theirs, length in zip(one.tokens, expected.tokens[i], one.lengths):
            np.testing.assert_array_equal(mine[:length], theirs[:length])
        np.testing.assert_allclose(one.scores, expected.scores[i], rtol=1e-4)
    # The model is one whose targets depend on the sentence.
    assert len({tuple(row[:8].tolist()) for row in expected.tokens[:, 0]}) > 20


@pytest.mark.parametrize("sources", [[[]], [[5] * 30, []], [[], [], [7, 1]]])
def test_sources_may_have_no_tokens(sources):
    """As those of a language model."""
    model, variables = built(CONFIG)
    search = Search(method="greedy", extra_length=8, batch_tokens=16)
    padded = np.zeros((len(sources), 30), np.int32)
    for row, ids in zip(padded, sources):
        row[: len(ids)] = ids
    limits = [len(ids) + 8 for ids in sources]
    expected = generate(
        model, variables["params"], jnp.asarray(padded), search, limits=jnp.asarray(limits)
    )
    found = dict(
        ContinuousSearch(model, search, compiled, 1, 10**6)(
            variables, sources, limits, np.zeros((len(sources), 2), np.int32)
        )
    )
    for i, length in enumerate(expected.lengths[:, 0].tolist()):
        assert found[i].lengths[0] == length
        np.testing.assert_array_equal(found[i].tokens[0, :length], expected.tokens[i, 0, :length])


def test_batches_change_in_every_way(monkeypatch):
    """What is compared above has batches that grow, shrink and are filled again, with sources that
    are narrower, and sentences that begin again."""
    sizes, refilled, left = [], [], []
    change, refill = ContinuousSearch._make_resize, ContinuousSearch._make_refill
    monkeypatch.setattr(
        ContinuousSearch, "_make_resize",
        lambda self, old, new: sizes.append((old, new)) or change(self, old, new),
    )  # fmt: skip
    monkeypatch.setattr(
        ContinuousSearch, "_make_refill",
        lambda self, *key: refilled.append(key) or refill(self, *key),
    )  # fmt: skip
    begin_again = Waiting.next_round
    monkeypatch.setattr(
        Waiting, "next_round", lambda self: left.append(len(self._left)) or begin_again(self)
    )
    search, _ = together("beam", 512)
    assert left[0] > 0
    for field in ("rows", "places"):
        signs = {np.sign(getattr(new, field) - getattr(old, field)) for old, new in sizes}
        assert {-1, 1} <= signs, field
    assert any(new.width < old.width for old, new in sizes)
    assert refilled and any(search._refill_size(size) < size.rows for size, _ in refilled)
    assert any(width < size.width for size, width in refilled)
    # A program for each size and each change of it that occurs, not for each batch.
    assert len(set(sizes)) == len(sizes) and len(set(refilled)) == len(refilled)
    occurring = {size for pair in sizes for size in pair}
    known = len(left) + len(sizes) + len(occurring) + len(refilled)  # a round begins once
    assert search.program_count <= min(42, known)
    assert len(occurring) <= 20  # of 40 sentences of 3 to 93 tokens


def test_rows_become_few_where_few_sentences_are_left():
    """Those that wait count as well: the last ones do not begin in a batch of many empty rows."""
    search = ContinuousSearch(None, SEARCHES["beam"], None, 1, 10**6)
    held = np.full((1, 16), -1)
    for left, rows in ((3, 4), (4, 4), (5, 16), (40, 16)):
        waiting = Waiting([[5] * 10] * left, [20] * left, np.zeros((left, 2), int), 340)
        size = search._next_size(continuous._Size(16, 16, 48), held, 0 * held, 0, waiting)
        assert size.rows == rows


@pytest.mark.parametrize(("unfinished", "rows"), [(4, 4), (3, 16)])
def test_rows_are_added_where_one_is_free(unfinished, rows):
    """An added row repeats one that is finished; a full batch has none."""
    search = ContinuousSearch(None, SEARCHES["beam"], None, 1, 10**6)
    held = np.where(np.arange(4) < unfinished, np.arange(4), -1)[None]
    waiting = Waiting([[5] * 10] * 50, [20] * 50, np.zeros((50, 2), int), 340)
    needed = np.where(held >= 0, 17, 0)
    size = search._next_size(continuous._Size(4, 32, 16), held, needed, 10, waiting)
    assert size == (rows, 16, 32)


class Counted(ContinuousSearch):
    """Counts its programs; they do nothing but let each sentence grow to its limit.

    Of a sentence's hypotheses three tokens are its own, the others are shared.
    """

    def __init__(self, beam_size):
        search = Search(beam_size=beam_size)
        super().__init__(None, search, lambda function, *_, **__: function, 1, 10**6)

    def _make_begin(self, size):
        def begin(variables, source, limits, sample_ids):
            return (np.zeros(size.rows, int), limits), limits

        return self._jit(begin, 4)

    def _make_refill(self, size, width):
        def refill(variables, state, rows, source, limits, sample_ids, at):
            length, end = (field.copy() for field in state)
            length[at[at >= 0]], end[at[at >= 0]] = 0, limits[at >= 0]
            return (length, end), end

        return self._jit(refill, 7)

    def _make_extend(self, size):
        beams = self._search.rows

        def extend(variables, state, rows, is_held, floor):
            length, end = state
            running = is_held & (length < end)
            while running.sum() > floor[0]:
                taken = np.minimum(length * beams, length + 3 * (beams - 1))
                if (running & (taken > size.places - beams)).any():
                    break
                length = length + running
                running = is_held & (length < end)
            taken = np.minimum(length * beams, length + 3 * (beams - 1))
            return (length, end), (running, taken, (np.zeros((size.rows, 1)),) * 4)

        return self._jit(extend, 5)

    def _make_resize(self, old, new):
        def resize(variables, state, rows, kept):
            return tuple(field[kept] for field in state), rows[kept]

        return self._jit(resize, 4)


@pytest.mark.parametrize(
    "lines, calls, most, more", [(1024, 20, 70, 16), (64, 100, 130, 40)], ids=["files", "requests"]
)
def test_search_of_ever_more_text_compiles_few_programs(monkeypatch, lines, calls, most, more):
    """As a server that gets up to 64 lines at a time, and a long file that is read in calls."""
    monkeypatch.setattr(continuous.jax, "device_get", lambda arrays: arrays)
    rng, search, counts = np.random.default_rng(0), Counted(beam_size=4), []
    for _ in range(2 * calls):
        count = lines if lines == 1024 else int(rng.integers(1, lines + 1))
        lengths = np.clip(rng.lognormal(np.log(25), 0.55, count).astype(int), 2, 250)
        limits = np.clip((lengths * rng.normal(1, 0.2, count)).astype(int) + 1, 1, lengths + 50)
        sources = [[5] * length for length in lengths]
        found = search({}, sources, limits.tolist(), np.zeros((count, 2), np.int32))
        assert sorted(i for i, _ in found) == list(range(count))
        counts.append(search.program_count)
    assert counts[calls - 1] <= most
    assert counts[-1] - counts[calls - 1] <= more
