"""Programs of the next shapes are compiled while others run."""

import threading

import jax
import numpy as np
import pytest

from transformer_jax import ModelConfig, Transformer
from transformer_jax.data.batching import Batch, BatchShape
from transformer_jax.tasks import Task
from transformer_jax.training.programs import Program, Programs
from transformer_jax.training.runners import SingleDeviceRunner

SECONDS = 20  # after which a thread that waits for another gives up


class Compiler:
    """A jitted function and its compiler, who says what was done in which thread."""

    def __init__(self):
        self.traced, self.compiled, self.called = [], [], []
        self.failing = set()
        self.held: threading.Event | None = None

    def lower(self, total, batch):
        self.traced.append((batch.shape[0], threading.current_thread()))
        return Lowered(self, batch.shape[0])

    def __call__(self, total, batch):
        self.called.append(batch.shape[0])
        return total + batch.sum()


class Lowered:
    def __init__(self, compiler, size):
        self.compiler, self.size = compiler, size

    def compile(self):
        if self.compiler.held is not None and threading.current_thread() is not MAIN:
            assert self.compiler.held.wait(SECONDS)
        self.compiler.compiled.append((self.size, threading.current_thread()))
        if self.size in self.compiler.failing:
            raise MemoryError("RESOURCE_EXHAUSTED")
        return lambda total, batch: total + batch.sum()


MAIN = threading.current_thread()


def program_with(requests):
    compiler, programs = Compiler(), Programs()
    program = Program(compiler, ("total", "batch"), programs)
    return compiler, program, programs, programs.ahead((program, shapes(n)) for n in requests)


def shapes(size):
    return jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct((size,), np.float32)


def ones(size):
    return np.float32(1), np.ones(size, np.float32)


def test_programs_of_later_shapes_are_compiled_meanwhile():
    compiler, program, _, ahead = program_with([2, 3, 5])
    with ahead:
        for size in (2, 5, 3, 2):
            assert program(*ones(size)) == size + 1
    # Each once, in the order of use: traced where the caller's settings hold, compiled elsewhere.
    assert [size for size, _ in compiler.traced] == [2, 3, 5]
    assert {thread for _, thread in compiler.traced} == {MAIN}
    assert sorted(size for size, _ in compiler.compiled) == [2, 3, 5]
    assert MAIN not in {thread for _, thread in compiler.compiled}
    assert compiler.called == []  # what was compiled is what runs


def test_program_of_an_unforeseen_shape_runs_as_it_is():
    compiler, program, _, ahead = program_with([2])
    with ahead:
        assert program(*ones(7)) == 8
    assert program(*ones(11)) == 12
    assert compiler.called == [7, 11]


def test_programs_stop_ahead_when_their_context_ends():
    """It waits for none; what was begun and not compiled runs as it is."""
    compiler, program, programs, ahead = program_with(range(2, 10**9))
    compiler.held = threading.Event()
    with pytest.raises(KeyError), ahead:
        for _ in range(8):  # beside the first; more than are compiled at a time
            assert programs.begin_next()
        raise KeyError
    assert not programs.begin_next() and not compiler.compiled
    compiler.held.set()
    for size in range(2, 13):
        assert program(*ones(size)) == size + 1
    assert len(compiler.traced) == 9 and {11, 12} <= set(compiler.called)


def test_nothing_is_traced_while_all_compilers_are_busy(monkeypatch):
    """A program that is read from the cache would wait for what is traced before it is run."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    compiler, program, programs, ahead = program_with([2, 3, 5])
    compiler.held = threading.Event()

    def traced():
        return [size for size, _ in compiler.traced]

    with ahead:
        assert traced() == [2]  # from the start, whatever the caller does before its first call
        assert programs.begin_if_free() and not programs.begin_if_free()
        assert traced() == [2, 3]
        compiler.held.set()
        assert program(*ones(2)) == 3 and program(*ones(3)) == 4
        assert traced() == [2, 3, 5]
        assert program(*ones(5)) == 6 and not programs.wait_for_one()
    assert compiler.called == []


def test_next_program_is_begun_while_the_device_computes(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    compiler, program, _, ahead = program_with([2, 3])
    with ahead:
        for size, begun in ((2, [2, 3]), (3, [2, 3])):
            assert program(*ones(size)) == size + 1
            assert [size for size, _ in compiler.traced] == begun


def test_program_that_did_not_compile_beside_others_is_tried_alone():
    compiler, program, _, ahead = program_with([2])
    compiler.failing = {2, 3}
    with ahead:
        assert program(*ones(2)) == 3
    assert compiler.called == [2]
    with pytest.raises(MemoryError):
        program.compile(*shapes(3))
    compiler.failing = set()
    program.compile(*shapes(3))
    assert program(*ones(3)) == 4 and compiler.called == [2]


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_runner_compiles_what_its_steps_call(accumulation_steps):
    config = ModelConfig(
        vocab_size=11, d_model=8, d_ff=8, num_heads=2, num_layers=1, dropout=0.0
    )  # fmt: skip
    functions = Task().step_functions(Transformer(config))
    state = jax.jit(functions.init)(jax.random.key(0))
    runner = SingleDeviceRunner(functions)
    sizes = [BatchShape(2, 3, 5), BatchShape(3, 5, 2)]
    with runner.compiling_ahead(sizes, accumulation_steps):
        for rows, source, target in sizes:
            batch = Batch(
                np.full((rows, source), 4, np.int32), np.full((rows, target), 5, np.int32),
                np.arange(rows, dtype=np.int32),
            )  # fmt: skip
            state, metrics = runner(state, [batch] * accumulation_steps)
            assert int(metrics["tokens"]) == rows * target * accumulation_steps
    programs = [runner._full_step]
    if accumulation_steps > 1:
        programs = [runner._first_micro_batch, runner._accumulate]
    for program in programs:
        assert len(program._compiled) == 2 and program._jitted._cache_size() == 0
