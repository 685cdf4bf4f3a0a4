"""Programs of the next shapes are compiled while others run."""

import threading

import jax
import numpy as np
import pytest

from transformer_jax.training.programs import Program, Programs


@pytest.fixture
def traced():
    """The shapes that `Program`s traced, with the thread that traced them."""
    return []


def make_program(programs, traced):
    def add(total, batch):
        traced.append((batch.shape, threading.current_thread()))
        return total + batch.sum()

    return Program(jax.jit(add), ("total", "batch"), programs)


def shapes(*sizes):
    return jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct(sizes, np.float32)


def ones(*sizes):
    return np.float32(1), np.ones(sizes, np.float32)


def test_programs_of_later_shapes_are_compiled_meanwhile(traced):
    programs = Programs()
    program = make_program(programs, traced)
    requests = [(program, shapes(n)) for n in (2, 3, 5)]
    with programs.ahead(requests):
        assert float(program(*ones(2))) == 3.0
        for n in (5, 3, 2):
            assert float(program(*ones(n))) == n + 1
    # Each once, in the order of use, in the caller's thread, whose settings hold there.
    assert [shape for shape, _ in traced] == [(2,), (3,), (5,)]
    assert {thread for _, thread in traced} == {threading.current_thread()}


def test_program_of_an_unforeseen_shape_is_compiled_when_called(traced):
    programs = Programs()
    program = make_program(programs, traced)
    with programs.ahead([(program, shapes(2))]):
        assert float(program(*ones(7))) == 8.0
    assert float(program(*ones(11))) == 12.0
    assert [shape for shape, _ in traced] == [(2,), (7,), (11,)]


def test_programs_stop_ahead_when_their_context_ends(traced):
    """What was begun and not compiled is compiled when it is called."""
    programs = Programs()
    program = make_program(programs, traced)
    endless = ((program, shapes(n)) for n in range(2, 10**9))
    with pytest.raises(KeyError), programs.ahead(endless):
        assert float(program(*ones(2))) == 3.0
        while len(traced) < 9:
            assert programs.begin_next()
        raise KeyError
    assert not programs.begin_next()
    for n in range(2, 12):
        assert float(program(*ones(n))) == n + 1


def test_program_that_does_not_compile_says_so_where_it_is_called():
    class Refusing:
        def lower(self, *arguments):
            return self

        def compile(self):
            raise MemoryError("RESOURCE_EXHAUSTED")

    programs = Programs()
    program = Program(Refusing(), ("total", "batch"), programs)
    with pytest.raises(MemoryError), programs.ahead([(program, shapes(2))]):
        program(*ones(2))
