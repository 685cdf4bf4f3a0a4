"""The command line: typed options from the dataclasses of commands/ and of the configuration.

Heavy imports happen inside the commands, so that --help answers at once.
"""

import dataclasses
import gc
import itertools
import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from transformer_jax import __version__, presets
from transformer_jax.commands.attention import AttentionCommand
from transformer_jax.commands.average import AverageCommand
from transformer_jax.commands.evaluate import EvaluateCommand
from transformer_jax.commands.export_model import ExportCommand
from transformer_jax.commands.import_model import ImportCommand
from transformer_jax.commands.inspect import InspectCommand
from transformer_jax.commands.parse import ParseCommand
from transformer_jax.commands.prepare import PrepareCommand
from transformer_jax.commands.schedule import ScheduleCommand
from transformer_jax.commands.score import ScoreCommand
from transformer_jax.commands.train import TrainCommand
from transformer_jax.commands.translate import TranslateCommand
from transformer_jax.commands.verify_resume import VerifyResumeCommand
from transformer_jax.config import RunConfig
from transformer_jax.config.renamed import check_options
from transformer_jax.devices.compilation import use_compilation_cache
from transformer_jax.errors import UserError
from transformer_jax.run.formats import upgrade_run
from transformer_jax.run.names import CONFIG
from transformer_jax.terminal import command_errors

__all__ = ["main"]

log = logging.getLogger(__name__)

# Objects between two searches for garbage. Python's 700 makes it search again and again while the
# libraries are imported and programs are traced: 0.1 of the 0.8 seconds that `translate` takes.
_OBJECTS_BETWEEN_COLLECTIONS = 10_000

Flat = tyro.conf.OmitArgPrefixes
# Options whose values are text, not paths.
_TEXTS = ("--source", "--target")
# Options that take two files, and which.
_PAIRS = {
    **dict.fromkeys(
        ("--train", "--validation", "--mixed-text", "--test"), "a source file and a target file"
    ),
    "--treebank": "trees to train on and trees to evaluate on",
}

COMMANDS = {
    "train": TrainCommand,
    "prepare": PrepareCommand,
    "import": ImportCommand,
    "export": ExportCommand,
    "average": AverageCommand,
    "verify-resume": VerifyResumeCommand,
    "translate": TranslateCommand,
    "parse": ParseCommand,
    "score": ScoreCommand,
    "evaluate": EvaluateCommand,
    "inspect": InspectCommand,
    "schedule": ScheduleCommand,
    "attention": AttentionCommand,
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `transformer-jax`; exits non-zero with one line on bad input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    with command_errors():
        if arguments == ["--version"]:
            print(f"transformer-jax {__version__}")
            return
        check_options(arguments)
        _check_pairs(arguments)
        arguments = [*map(_with_home, arguments)]
        command = tyro.cli(
            Flat[_union(arguments)],  # type: ignore[misc]
            prog="transformer-jax",
            description='The Transformer of "Attention Is All You Need".',
            args=arguments,
        )
        _use_compilation_cache(command)
        command.run()


def _use_compilation_cache(command) -> None:
    """Keep compiled programs where the command keeps prepared text."""
    from transformer_jax.data.preparation import cache_folder

    if isinstance(command, VerifyResumeCommand):  # its jobs have a cache of their own
        return
    config = getattr(command, "config", None)
    try:
        folder = cache_folder(config.data.cache_dir if isinstance(config, RunConfig) else None)
    except UserError as error:
        log.info("compiled programs are not kept: %s", error)
    else:
        use_compilation_cache(folder / "compiled")


def _check_pairs(arguments: list[str]) -> None:
    """Raise UserError for a pair of files that is not two; the parser's own message says less."""
    for place, option in enumerate(arguments):
        if option in _PAIRS:
            following = itertools.takewhile(
                lambda w: not w.startswith("--"), arguments[place + 1 :]
            )
            given = list(following)
            if len(given) != 2 and given != ["None"]:
                raise UserError(
                    f"{option} takes {_PAIRS[option]}, not {' '.join(given) or 'nothing'}"
                )


def _union(arguments):
    """Make a type of the subcommands, whose options have the preset's or the run's defaults."""
    import functools
    import operator

    config = _with_given_peak(_base_config(arguments), arguments)
    members = []
    for name, command in COMMANDS.items():
        fields: dict[str, Any] = {"config": config} if hasattr(command, "config") else {}
        if command is EvaluateCommand and arguments[:1] == ["evaluate"]:
            fields |= _search_of(_value_of("--run-dir", arguments))
        required = {
            f.name: tyro.MISSING
            for f in dataclasses.fields(command)
            if f.default is dataclasses.MISSING
        }
        default = command(**required, **fields)
        subcommand = tyro.conf.subcommand(name, default=default)
        members.append(Annotated[command, subcommand])
    return functools.reduce(operator.or_, members)


def _with_given_peak(config: RunConfig, arguments: list[str]) -> RunConfig:
    """Drop one of the two fields that set the peak of the learning rate where the other is given.

    Both given are an error of the configuration that is made of them.
    """
    factor, peak = (_value_of(name, arguments) for name in ("--lr-factor", "--peak-learning-rate"))
    dropped: dict[str, Any] = {}
    if factor is not None and peak is None:
        dropped = {"peak_learning_rate": None}
    if peak not in (None, "None") and factor is None:
        dropped = {"lr_factor": 1.0}
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **dropped))


def _base_config(arguments: list[str]) -> RunConfig:
    """The configuration whose fields are the defaults of options.

    It is --config or --preset if given; else the configuration of an existing --run-dir; else that
    of --init-from, without its text; else the preset that the command starts from.
    """
    preset = _value_of("--preset", arguments)
    file = _value_of("--config", arguments)
    run_dir = _value_of("--run-dir", arguments)
    if file is not None:
        if preset is not None:
            raise UserError(f"--config {file} and --preset {preset}: give one of them")
        return _read_config(Path(file))
    if preset is None and arguments[:1] == ["train"] and run_dir is not None:
        path = Path(run_dir) / CONFIG
        if path.is_file():
            from transformer_jax.run.folder import Run

            return Run.open(Path(run_dir)).config
    command = COMMANDS.get(arguments[0] if arguments else "")
    name = str(getattr(command, "preset", "base")) if preset is None else preset
    init_from = _value_of("--init-from", arguments)
    if preset is None and init_from is not None:
        return _config_of(Path(init_from), _value_of("--vocab-size", arguments))
    return presets.run_config(name)


def _search_of(run_dir: str | None) -> dict[str, Any]:
    """The search of a run's task, as the default of options."""
    if run_dir is None or not Path(run_dir).exists():
        return {}  # which the command says
    from transformer_jax.run.single_file import open_run

    return {"search": open_run(Path(run_dir)).task.search}


def _config_of(init_from: Path, vocab_size: str | None) -> RunConfig:
    """The configuration of the run that parameters come from, without its text and its folders."""
    from transformer_jax.run.folder import Run

    other = Run.open(init_from).config
    if vocab_size not in (None, str(other.model.vocab_size)):
        raise UserError(
            f"--vocab-size {vocab_size}: the vocabulary is that of --init-from {init_from}, which "
            f"has {other.model.vocab_size} types: leave --vocab-size out"
        )
    # It is a new run, which chooses its own kernels.
    model = dataclasses.replace(other.model, kernels="auto")
    return dataclasses.replace(other.without_text(), model=model)


def _read_config(path: Path) -> RunConfig:
    """Read a configuration as printed, or as a run folder holds it."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(tree, dict) and "config" in tree:
            tree = (upgrade_run(tree) if "format" in tree else tree)["config"]
        return RunConfig.from_json(json.dumps(tree))
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a configuration: {error}") from None


def _with_home(word: str) -> str:
    """Expand --run-dir=~/x as a shell expands --run-dir ~/x."""
    option, equals, value = word.partition("=")
    if not option.startswith("--") or option in _TEXTS or not value.startswith("~"):
        return word
    try:
        return option + equals + str(Path(value).expanduser())
    except RuntimeError as error:
        raise UserError(f"{word}: {error}: give the whole path") from None


def _value_of(option: str, arguments: list[str]) -> str | None:
    """Return what follows the last occurrence of an option.

    None where it is not given, or without a value, which is reported when options are parsed.
    """
    found = None
    for word, following in zip(arguments, [*arguments[1:], "--"]):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            found = value if equals else following
    return None if found is None or found.startswith("--") else found


if __name__ == "__main__":
    main()
