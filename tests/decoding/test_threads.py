"""Sentences shared among threads: each is searched once, and finds what it finds in one."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import Transformer, presets
from transformer_jax.decoding import inference, threads
from transformer_jax.decoding.options import Search
from transformer_jax.decoding.threads import SharedProgram, search_in_threads, thread_count

LENGTHS = [3, 9, 1, 4, 4, 12, 7]
SOURCES = [[5] * length for length in LENGTHS]
LIMITS = [10 * length for length in LENGTHS]
NUMBERS = np.stack([np.arange(7), np.zeros(7, int)], axis=1)


def test_threads_share_the_sentences_of_each_length():
    shares = []

    def search(variables, sources, limits, sample_ids, count):
        assert (variables, count) == ("variables", 3)
        assert limits == [10 * len(ids) for ids in sources]
        shares.append([len(ids) for ids in sources])
        yield from enumerate(sample_ids[:, 0])  # what is found for each

    found = list(search_in_threads(search, 3, "variables", SOURCES, LIMITS, NUMBERS))
    assert sorted(found) == [(i, i) for i in range(7)]
    assert sorted(shares) == [[7, 3], [9, 4], [12, 4, 1]]


def test_threads_stop_once_nobody_waits_for_more():
    went_on = []

    def search(variables, sources, limits, sample_ids, count):
        for i in range(len(sources)):
            yield i, None
            time.sleep(0.01)
            went_on.append(i)

    found = search_in_threads(search, 2, None, [[5]] * 1000, [1] * 1000, np.zeros((1000, 2)))
    next(found)
    found.close()
    assert len(went_on) < 900  # of 2 x 500 in 5 seconds
    assert not [each for each in threading.enumerate() if "ThreadPool" in each.name]


def test_fault_of_one_thread_reaches_the_caller():
    def search(variables, sources, limits, sample_ids, count):
        yield 0, None
        if len(sources[0]) == 12:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(search_in_threads(search, 2, None, SOURCES, LIMITS, NUMBERS))


def test_program_is_compiled_by_one_thread_while_others_wait():
    inside, most, calls = [], [], []
    begun = threading.Barrier(4)

    def function(x):
        inside.append(x)
        if not calls:
            most.append(len(inside))
            threading.Event().wait(0.05)
            most.append(len(inside))
        calls.append(x)
        inside.pop()
        return 2 * x

    program, found = SharedProgram(function), [0] * 4

    def call(i):
        begun.wait()
        found[i] = program(i)

    workers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [0, 2, 4, 6]
    assert most == [1, 1]  # nobody else entered while the first call ran


@pytest.mark.parametrize(("sentences", "expected"), [(0, 1), (15, 1), (16, 2), (1000, 2)])
def test_few_sentences_are_one_batch(sentences, expected):
    assert thread_count(sentences) == expected


@pytest.mark.parametrize(
    "search", [Search(beam_size=3, extra_length=20), Search(method="sample", extra_length=20)]
)
def test_translations_are_those_of_one_thread(monkeypatch, search):
    config = presets.tiny(vocab_size=23)
    model, tokens = Transformer(config), jnp.ones((1, 1), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(3), tokens, tokens)
    drawn = np.random.default_rng(1)
    sources = [drawn.integers(4, 23, drawn.integers(1, 20)).tolist() for _ in range(40)]
    decoder = inference.BatchDecoder(model, {"params": variables["params"]})
    monkeypatch.setattr(threads, "THREADS", 1)
    expected = decoder.translate(sources, search)
    monkeypatch.setattr(threads, "THREADS", 2)
    found, shared = [], threads.search_in_threads
    monkeypatch.setattr(
        inference, "search_in_threads", lambda *given: found.append(given[1]) or shared(*given)
    )
    for mine, theirs in zip(decoder.translate(sources, search), expected, strict=True):
        assert [each.ids for each in mine] == [each.ids for each in theirs]
        np.testing.assert_allclose(
            [each.score for each in mine], [each.score for each in theirs], rtol=1e-4
        )
    assert found == [2]
