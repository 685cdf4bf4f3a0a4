"""What had another name before format 3, or has one elsewhere: configuration fields and options.

FIELDS and OPTIONS are frozen: run folders of that time are read through this for ever, and
identities are made of its names. docs/formats.md has today's names in one table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformer_jax.errors import UserError

__all__ = ["FIELDS", "OPTIONS", "check_fields", "check_options", "rename_fields"]

# Part of the configuration -> old name -> name.
FIELDS = {
    "model": {
        "norm": "norm_placement",
        "positions": "position_encoding",
        "attention": "attention_score",
        "tied": "tied_embeddings",
        "relu_dropout": "activation_dropout",
    },
    "optimizer": {"accumulate": "accumulation_steps"},
    "data": {"num_shapes": "max_batch_shapes"},
    "train": {
        "checkpoint_each_epoch": "checkpoint_every_epoch",
        "stop_after_skipped": "max_consecutive_skips",
    },
}
# Old option, or option and value -> what is written now.
OPTIONS = {
    f"--{old.replace('_', '-')}": f"--{new.replace('_', '-')}"
    for fields in FIELDS.values()
    for old, new in fields.items()
} | {
    "--no-checkpoint-each-epoch": "--no-checkpoint-every-epoch",
    "--penalty": "--length-penalty",
    "--eos-rule place": "--eos-rule shrink",
}


def rename_fields(tree: Any) -> Any:
    """A configuration of format 2, parsed from JSON, with today's names.

    >>> rename_fields({"model": {"tied": "all", "d_model": 8}, "train": {}})
    {'model': {'tied_embeddings': 'all', 'd_model': 8}, 'train': {}}
    """
    if not isinstance(tree, dict):
        return tree
    return {
        part: {FIELDS.get(part, {}).get(name, name): value for name, value in fields.items()}
        if isinstance(fields, dict)
        else fields
        for part, fields in tree.items()
    }


def check_fields(tree: Any) -> None:
    """UserError for a configuration, parsed from JSON, with names that are others now."""
    found = [
        f"{part}.{old} is now {part}.{new}"
        for part, fields in FIELDS.items()
        for old, new in fields.items()
        if isinstance(tree, Mapping) and isinstance(given := tree.get(part), Mapping)
        if old in given
    ]
    if found:
        raise UserError(f"{', '.join(found)}: write the new name")


# What users of other toolkits type -> what they are looking for.
HINTS = {
    "--learning-rate": "the schedule of section 5.3 is scaled by --lr-factor, and --warmup-steps "
    "sets its peak (see `transformer-jax schedule`)",
    "--lr": "the schedule of section 5.3 is scaled by --lr-factor",
    "--batch-size": "batches are measured in tokens: --batch-tokens",
    "--epochs": "training is measured in updates: --steps",
    "--max-steps": "use --steps",
    "--gradient-accumulation-steps": "use --accumulation-steps",
    "--num-beams": "use --beam-size",
    "--beam": "use --beam-size",
    "--lenpen": "use --alpha, with --length-penalty power",
}


def check_options(arguments: Sequence[str]) -> None:
    """Raise UserError for an option, or a value of one, that has another name.

    >>> check_options(["translate", "--penalty=none"])
    Traceback (most recent call last):
    transformer_jax.errors.UserError: --penalty is now --length-penalty: write the new name
    """
    for word, following in zip(arguments, [*arguments[1:], ""]):
        if not word.startswith("--"):
            continue
        option, equals, value = word.partition("=")
        option = option.replace("_", "-")
        if option in HINTS:
            raise UserError(f"there is no option {option}: {HINTS[option]}")
        for old in (option, f"{option} {value if equals else following}"):
            if old in OPTIONS:
                raise UserError(f"{old} is now {OPTIONS[old]}: write the new name")
