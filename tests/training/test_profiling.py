"""A trace holds the steps that it was asked for."""

from pathlib import Path

import jax

from transformer_jax.training.profiling import WARMUP_STEPS, trace_steps


def test_trace_holds_the_requested_steps(tmp_path):
    unread = []
    for number in trace_steps(range(12), tmp_path / "profile", steps=4):
        with jax.profiler.StepTraceAnnotation("train", step_num=number + 1):
            unread.append(jax.jit(lambda x: x + 1)(number))
        while len(unread) > 1:  # as the loop reads metrics
            unread.pop(0).block_until_ready()
    [trace] = Path(tmp_path).rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(trace))
    steps = [
        dict(event.stats)["step_num"]
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    # One more is dispatched while the last of them is waited for.
    assert sorted(steps) == list(range(WARMUP_STEPS + 1, WARMUP_STEPS + 6))


def test_trace_of_a_short_run_ends(tmp_path):
    assert list(trace_steps(range(WARMUP_STEPS + 1), tmp_path, steps=4)) == list(
        range(WARMUP_STEPS + 1)
    )
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
    assert list(trace_steps(range(1), tmp_path / "none", steps=4)) == [0]
    assert not (tmp_path / "none").exists()
