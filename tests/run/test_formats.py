"""Names on disk are those of docs/formats.md, and folders of format 2 are read by it."""

import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tests.small_job import configuration, read_jsonl
from transformer_jax import RunConfig, Search, UserError, train
from transformer_jax.cli import COMMANDS
from transformer_jax.config.renamed import FIELDS, HINTS, OPTIONS, rename_fields
from transformer_jax.data.corpus import Corpus, CorpusError
from transformer_jax.data.manifest import Manifest
from transformer_jax.run.formats import upgrade_metadata

TABLE = Path(__file__).parents[2] / "docs" / "formats.md"


def read_table():
    """(name, where, old name or "") of each row."""
    row = re.compile(r"^\| `(.+?)` \| (.*?) \| .* \| (?:`(.*?)`)? \|$", re.MULTILINE)
    return [match.groups(default="") for match in row.finditer(TABLE.read_text(encoding="utf-8"))]


def names_of(where):
    return {name for name, place, _ in read_table() if place.startswith(where)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has everything that is written down: an average of parameters, patience."""
    folder = tmp_path_factory.mktemp("formats")
    config = configuration(folder, 24, log_every=4, evaluate_every=4, patience=1, min_delta=9.0)
    config = replace(config, optimizer=replace(config.optimizer, ema_decay=0.9))
    return train(config, folder / "run", progress=False)


def test_format_table_has_every_field():
    for part in fields(RunConfig):
        config = getattr(RunConfig(), part.name)
        own = {f.name for f in fields(config)}
        assert own == names_of(f"config.json, {part.name};")
    assert {f.name for f in fields(Search)} == names_of("search (")


def test_format_table_has_every_renamed_name():
    renamed = {(former, name) for name, _, former in read_table() if former}
    options = {(old.split()[-1], new.split()[-1]) for old, new in OPTIONS.items()}
    for part in FIELDS.values():
        assert set(part.items()) <= renamed
        options -= {(as_option(old), as_option(new)) for old, new in part.items()}
    assert options == {
        ("--no-checkpoint-each-epoch", "--no-checkpoint-every-epoch"),
        ("--penalty", "--length-penalty"),
        ("place", "shrink"),
    }
    assert {("--penalty", "length_penalty"), ("--eos-rule place", "eos_rule")} <= renamed


@pytest.mark.parametrize("command", COMMANDS)
def test_format_table_has_every_option(command):
    given = [f for f in fields(COMMANDS[command]) if "Positional" not in str(f.type)]
    own = {f.name for f in given} - {"config", "search"}
    # --config is an option whose field has another name.
    options = {as_option(name.removesuffix("_file")) for name in own}
    rows = [(name, place.removeprefix("option of ").split(", ")) for name, place, _ in read_table()]
    assert options == {name for name, commands in rows if command in commands}


def test_hints_name_existing_options_for_those_of_other_toolkits():
    options = {
        name if name.startswith("--") else as_option(name)
        for name, place, _ in read_table()
        if "option" in place
    }
    assert {word for hint in HINTS.values() for word in re.findall(r"--[a-z-]+", hint)} <= options
    assert not options & HINTS.keys()
    page = (TABLE.parent / "faq.md").read_text(encoding="utf-8")
    foreign = re.findall(r"`(--[a-z_-]+)`", "".join(re.findall(r"^\| (`--.*?) \|", page, re.M)))
    assert len(foreign) > 20
    assert {word.replace("_", "-") for word in foreign} <= options | HINTS.keys()


def as_option(field):
    return f"--{field.replace('_', '-')}"


def test_format_upgrade_of_metadata():
    rows = [row for row in read_table() if row[1] == "metadata of a checkpoint" and row[2]]
    plain = {former: name for name, _, former in rows if "." not in name}
    assert len(plain) == 6
    assert upgrade_metadata(dict.fromkeys(plain)) == {"format": 2, **dict.fromkeys(plain.values())}
    found = upgrade_metadata({"patience": {"limit": 3, "waited": 1}})
    assert found["patience"] == {"limit": 3, "evaluations_without_gain": 1}
    assert ("patience.evaluations_without_gain", rows[0][1], "patience.waited") in rows
    with pytest.raises(ValueError, match="its format is 4, this version reads 2 and 3"):
        upgrade_metadata({"format": 4})


def test_format_names_of_a_run_folder(run):
    assert {path.name for path in run.folder.iterdir()} <= {
        *names_of("run folder"), "vocabulary.json",
    }  # fmt: skip
    tree = json.loads((run.folder / "config.json").read_text())
    nested = {f"source_lines.{name}" for name in tree["source_lines"]}
    assert {*tree, *nested} == {n for n in names_of("config.json") if n in {*tree, *nested}}
    checkpoints = run.checkpoints(read_only=True)
    for step in checkpoints.steps():
        meta = checkpoints.metadata(step)
        assert meta.keys() <= names_of("metadata of a checkpoint")
        assert {f"patience.{name}" for name in meta["patience"]} >= {
            n for n in names_of("metadata of a checkpoint") if n.startswith("patience.")
        }
        trees = {p.name for p in (run.folder / "checkpoints" / str(step)).iterdir() if p.is_dir()}
        leaves = {re.match(r"\['(\w+)'\]", path)[1] for path in meta["fingerprints"]["optimizer"]}
        named = names_of("trees of a checkpoint")
        assert {*trees, *(f"optimizer/{leaf}" for leaf in leaves)} <= named


def test_format_names_of_records_and_prepared_text(run):
    for name in ("metrics", "timings"):
        found = {key for record in read_jsonl(run.folder / f"{name}.jsonl") for key in record}
        # validation_METRIC of every metric is one row.
        found -= {"validation_perplexity", "validation_accuracy"}
        assert found == names_of(f"{name}.jsonl")
    folder = run.folder / "corpus" / "train"
    assert json.loads((folder / "corpus.json").read_text()).keys() - {"format"} == names_of(
        "prepared text, train/"
    ) - {"vocabulary.*", "corpus.json", "source.tokens.npy", "source.sentence_ends.npy"}
    assert {path.name for path in folder.iterdir()} == {
        "corpus.json", "source.tokens.npy", "source.sentence_ends.npy",
        "target.tokens.npy", "target.sentence_ends.npy", "vocabulary.json",
    }  # fmt: skip
    assert {f.name for f in fields(Manifest)} == names_of("inputs.json")


def test_format_old_configuration_is_refused_with_new_names(tmp_path):
    tree = json.loads(RunConfig().to_json())
    tree["model"]["tied"] = tree["model"].pop("tied_embeddings")
    tree["optimizer"]["accumulate"] = tree["optimizer"].pop("accumulation_steps")
    message = (
        "model.tied is now model.tied_embeddings, optimizer.accumulate is now "
        "optimizer.accumulation_steps: write the new name"
    )
    with pytest.raises(UserError, match=message):
        RunConfig.from_json(json.dumps(tree))
    assert RunConfig.from_json(json.dumps(rename_fields(tree))) == RunConfig()


def test_format_of_a_newer_corpus_is_refused(run, tmp_path):
    folder = shutil.copytree(run.folder / "corpus" / "train", tmp_path / "text")
    tree = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps(tree | {"format": 4}))
    with pytest.raises(CorpusError, match="has corpus format 4, this version reads 2 and 3"):
        Corpus.open(folder)
