"""Sentences that wait, enter a batch, and may be left for a round with more room."""

import numpy as np

from transformer_jax.decoding.waiting import Waiting


def begun(count):
    """`count` sentences, sentence i of i + 1 tokens, which have all entered a batch."""
    sources = [[5] * (i + 1) for i in range(count)]
    waiting = Waiting(sources, [2 * len(ids) for ids in sources], np.zeros((count, 2), int), 100)
    held, free = np.full((1, count), -1), np.arange(count)[None]
    return waiting, held, waiting.enter(held, free, count)


def test_sentences_enter_longest_first():
    waiting, held, (source, limits, _) = begun(3)
    assert held.tolist() == [[2, 1, 0]] and limits.tolist() == [6, 4, 2]
    assert source.tolist() == [[5, 5, 5], [5, 5, 0], [5, 0, 0]]
    assert not waiting


def test_one_of_sixteen_may_be_left_and_begins_again_with_four_times_the_room():
    waiting, held, _ = begun(32)
    needed = np.full((1, 32), 9)
    needed[0, [3, 4, 5]] = 11
    # Three would be too many: no one leaves.
    for found, given in zip(waiting.leave(held, needed, 10), (held, needed)):
        np.testing.assert_array_equal(found, given)
    needed[0, 5] = 10
    assert not waiting.may_leave(needed, 10, soon=True)
    left, still_needed = waiting.leave(held, needed, 10)
    assert np.flatnonzero(left[0] < 0).tolist() == [3, 4]
    assert still_needed[0, [3, 4, 5]].tolist() == [0, 0, 10]
    # Two of 32 are left: that was all.
    needed[0, 5] = 11
    assert not waiting.may_leave(np.where(left < 0, 0, needed), 10)
    spare = waiting.spare
    waiting.next_round()
    assert waiting.spare == 4 * spare
    assert (len(waiting), waiting.longest()) == (2, 29)  # the rows hold sentences 28 and 27
    waiting.next_round()
    assert not waiting


def test_devices_take_turns_and_rows_that_get_no_sentence_stay_free():
    sources = [[5] * length for length in (1, 4, 2)]
    waiting = Waiting(sources, [10, 40, 20], np.zeros((3, 2), int), 100)
    held, free = np.full((2, 3), -1), np.array([[0, 1, 2], [2, -1, 1]])
    source, limits, _ = waiting.enter(held, free, 4)
    assert held.tolist() == [[1, 0, -1], [-1, -1, 2]]
    assert free.tolist() == [[0, 1, -1], [2, -1, -1]]
    assert limits.tolist() == [40, 10, 0, 20, 0, 0]  # a device's rows lie together
    assert source.sum(axis=1).tolist() == [20, 5, 0, 10, 0, 0]


def test_nobody_is_left_where_nobody_else_goes_on():
    """It would begin again, and no other pays for its places."""
    waiting, *_ = begun(32)
    needed = np.where(np.arange(32) < 2, 11, 0)[None]
    assert not waiting.may_leave(needed, 10)
    needed[0, 5] = 3
    assert waiting.may_leave(needed, 10)
