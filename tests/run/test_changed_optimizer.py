"""Settings of the optimizer that change in a run that has started: when, with what numbers."""

import json
import shutil
import signal
from dataclasses import replace

import jax
import pytest

from tests.run.test_recovery import damage
from tests.small_job import configuration, last_fingerprints, read_jsonl
from transformer_jax.data.batching import Batches
from transformer_jax.devices.signals import Interrupted
from transformer_jax.errors import UserError
from transformer_jax.run.changes import OptimizerChange
from transformer_jax.run.folder import Run, RunError
from transformer_jax.run.identity import identity, old_identities
from transformer_jax.run.inspect import describe_run
from transformer_jax.run.items import state_from_items, state_to_items
from transformer_jax.run.train import train
from transformer_jax.training.runners import SingleDeviceRunner


def with_steps(config, steps, **optimizer):
    return replace(
        config,
        train=replace(config.train, steps=steps),
        optimizer=replace(config.optimizer, **optimizer),
    )


CHANGED = {"peak_learning_rate": 0.01, "schedule": "constant", "clip_norm": 0.5, "beta1": 0.8}


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """(configuration, folder) of a run of 8 updates whose settings changed after 4."""
    folder = tmp_path_factory.mktemp("changed")
    config = configuration(folder, checkpoint_every=2, evaluate_every=2, log_every=1)
    train(with_steps(config, 4), folder / "run", progress=False)
    train(with_steps(config, 8, **CHANGED), folder / "run", progress=False, change_optimizer=True)
    return config, folder / "run"


def restored(folder, step, functions):
    template = SingleDeviceRunner(functions).template
    checkpoints = Run.open(folder).checkpoints(read_only=True)
    items, _ = checkpoints.restore(step, state_to_items(template))
    return state_from_items(items)


def test_changed_settings_hold_from_the_checkpoint_on(changed):
    """The updates made here, one by one, with Adam's moments of before."""
    config, folder = changed
    run = Run.open(folder)
    before = restored(folder, 4, run.at(3).step_functions())
    after = SingleDeviceRunner(run.step_functions())
    form = jax.tree.structure(after.template.opt_state)
    assert form != jax.tree.structure(before.opt_state)  # clipping has a part of its own
    state = before._replace(opt_state=jax.tree.unflatten(form, jax.tree.leaves(before.opt_state)))
    batches = Batches(run.training_corpus(), config.data, config.train.seed)
    for n in range(4, 8):
        state, metrics = after(state, [batches.batch(n)])
    assert float(metrics["learning_rate"]) == pytest.approx(0.01 * 8 / 20)
    expected = restored(folder, 8, run.step_functions())
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), state, expected))


def test_change_is_part_of_what_the_run_is(changed):
    config, folder = changed
    run = Run.open(folder)
    assert run.config.optimizer == replace(config.optimizer, **CHANGED)
    assert run.changes == (OptimizerChange(4, config.optimizer),)
    checkpoints = run.checkpoints(read_only=True)
    found = {step: checkpoints.metadata(step)["run_identity"] for step in checkpoints.steps()}
    began = replace(run.config, optimizer=config.optimizer)
    first = identity(began, run.corpus_fingerprint)
    assert found[2] == found[4] == first and found[6] == found[8] == run.identity != first
    assert run.identity != identity(run.config, run.corpus_fingerprint)
    assert [run.is_own(found[8], step) for step in (4, 5)] == [False, True]
    old = old_identities(began, run.corpus_fingerprint)[0]
    assert [run.is_own(old, step) for step in (4, 5)] == [True, False]
    later = identity(run.config, run.corpus_fingerprint, [OptimizerChange(5, config.optimizer)])
    assert later != run.identity


def test_changed_run_goes_on_from_a_damaged_checkpoint_with_the_old_settings(changed, tmp_path):
    config, folder = changed
    train(with_steps(config, 4), tmp_path / "run", progress=False)
    newest = with_steps(config, 6, **CHANGED)
    train(newest, tmp_path / "run", progress=False, change_optimizer=True)
    for step in (4, 6):
        damage(tmp_path / "run" / "checkpoints" / str(step), "flipped")
    run = train(with_steps(config, 8, **CHANGED), tmp_path / "run", progress=False)
    assert last_fingerprints(tmp_path / "run") == last_fingerprints(folder)
    assert run.changes == Run.open(folder).changes
    assert sorted(p.name for p in (tmp_path / "run" / "damaged").iterdir()) == ["4", "6"]


def test_change_is_named_and_shown(changed):
    config, folder = changed
    message = "clip_norm = 0.5 and cannot be resumed with 0.25: use the old value, give --change-"
    with pytest.raises(RunError, match=message):
        train(with_steps(config, 9, **{**CHANGED, "clip_norm": 0.25}), folder, progress=False)
    shown = describe_run(folder)
    assert "after update 4 the optimizer's settings changed: peak_learning_rate 0.01," in shown
    assert [line.split(":")[1][:7] for line in shown.splitlines() if line.startswith("checkp")] == (
        [" intact"] * 4
    )
    assert "not Adam" not in shown


def test_change_may_be_changed_and_taken_back(tmp_path):
    config = configuration(tmp_path, checkpoint_every=2)
    folder = tmp_path / "run"
    train(with_steps(config, 2), folder, progress=False)

    def go_on(steps, **optimizer):
        changed = with_steps(config, steps, **optimizer)
        return train(changed, folder, progress=False, change_optimizer=True).changes

    assert go_on(2, lr_factor=0.5) == (OptimizerChange(2, config.optimizer),)
    assert go_on(2) == ()
    assert go_on(2, lr_factor=0.25) == (OptimizerChange(2, config.optimizer),)
    first = replace(config.optimizer, lr_factor=0.25)
    assert go_on(4, lr_factor=0.25) == (OptimizerChange(2, config.optimizer),)
    assert go_on(6) == (OptimizerChange(2, config.optimizer), OptimizerChange(4, first))
    assert [Run.open(folder).at(n).config.optimizer.lr_factor for n in (1, 2, 3, 4)] == (
        [1.0, 0.25, 0.25, 1.0]
    )


@pytest.mark.parametrize(
    "optimizer, message",
    [
        ({"accumulation_steps": 2}, "accumulation_steps = 1, which decides the sentences of every"),
        ({"ema_decay": 0.9}, "another state is kept"),
        ({"peak_learning_rate": None, "lr_factor": 2.0, "frozen": ("x",)}, "'x' is no part of"),
        ({"frozen": ("encodr",)}, "frozen 'encodr' is no part of the model; did you mean 'encoder"),
    ],
)
def test_some_settings_cannot_change(changed, optimizer, message):
    config, folder = changed
    before = (folder / "config.json").read_bytes()
    with pytest.raises(UserError, match=message):
        train(
            with_steps(config, 9, **{**CHANGED, **optimizer}), folder, progress=False,
            change_optimizer=True,
        )  # fmt: skip
    assert (folder / "config.json").read_bytes() == before


def test_changes_need_a_run(tmp_path):
    config = configuration(tmp_path)
    with pytest.raises(RunError, match="holds no run whose optimizer could change"):
        train(config, tmp_path / "run", progress=False, change_optimizer=True)
    assert not (tmp_path / "run").exists()


def test_fallback_makes_no_checkpoint_that_the_schedule_does_not(tmp_path):
    """The run had been stopped after update 5, where its settings changed."""
    config = configuration(tmp_path, checkpoint_every=3, evaluate_every=3, log_every=1)

    def stop(record):
        if record["step"] == 4:  # records are read a step late
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(with_steps(config, 9), tmp_path / "run", progress=False, on_record=stop)
    newest = with_steps(config, 9, **CHANGED)
    run = train(newest, tmp_path / "run", progress=False, change_optimizer=True)
    assert run.changes == (OptimizerChange(5, config.optimizer, scheduled=False),)
    expected = last_fingerprints(run.folder)
    before = read_jsonl(run.folder / "metrics.jsonl")
    for step in run.checkpoints(read_only=True).steps()[1:]:
        damage(run.folder / "checkpoints" / str(step), "flipped")
    again = train(newest, run.folder, progress=False)
    assert last_fingerprints(run.folder) == expected
    assert read_jsonl(run.folder / "metrics.jsonl") == before
    assert again.checkpoints(read_only=True).scheduled_steps() == [3, 6, 9]


def test_fallback_ends_where_patience_ends(changed, tmp_path):
    """Before the settings change, and the run ends there for good."""
    config, folder = changed
    copy = shutil.copytree(folder, tmp_path / "run")
    for step in (4, 6, 8):
        damage(copy / "checkpoints" / str(step), "flipped")
    impatient = with_steps(config, 8, **CHANGED)
    options = replace(impatient.train, patience=1, min_delta=1e6, evaluate_every=1)
    run = train(replace(impatient, train=options), copy, progress=False)
    newest = run.checkpoints(read_only=True).steps()[-1]
    assert newest in (3, 4)
    assert Run.open(copy).at(newest - 1).config.optimizer == config.optimizer


def test_change_that_is_not_recorded_is_another_run(changed, tmp_path):
    config, _ = changed
    folder = tmp_path / "run"
    train(with_steps(config, 2), folder, progress=False)
    train(with_steps(config, 4, **CHANGED), folder, progress=False, change_optimizer=True)
    tree = json.loads((folder / "config.json").read_text())
    assert [change["step"] for change in tree.pop("changes")] == [2]
    (folder / "config.json").write_text(json.dumps(tree))
    with pytest.raises(RunError, match="was saved with another configuration or text"):
        train(with_steps(config, 6, **CHANGED), folder, progress=False)


@pytest.mark.parametrize(
    "changes, message",
    [
        (3, "changes must be a list, not 3"),
        ([{"step": "4", "before": {}}], r"changes\[0\].step must be of type int"),
        ([{"step": -1, "before": {}}], "no settings change after update -1"),
        ([{"step": 4, "before": {"lr": 1}}], r"changes\[0\].before has no field 'lr'"),
    ],
)
def test_damaged_changes_are_refused(uninterrupted_run, tmp_path, changes, message):
    _, _, run = uninterrupted_run
    tree = run.config_tree() | {"changes": changes}
    with pytest.raises(RunError, match=message):
        Run.from_tree(tmp_path, tree, run.vocabularies)
