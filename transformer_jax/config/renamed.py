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


# What users of other toolkits look for -> the options that they type.
_HINTS = {
    "--peak-learning-rate sets the rate at the end of --warmup-steps, --lr-factor scales that of "
    "section 5.3, and --schedule says what follows (see `transformer-jax schedule`)": "--learning-"
    "rate --lr",
    "use --schedule": "--lr-scheduler --lr-scheduler-type",
    "use --frozen": "--freeze --freeze-encoder --finetune-only",
    "batches are measured in tokens: use --batch-tokens": "--batch-size --max-tokens "
    "--per-device-train-batch-size",
    "training is measured in updates: use --steps": "--epochs --max-epoch --num-train-epochs",
    "use --steps": "--max-steps --max-update --train-steps",
    "use --accumulation-steps": "--gradient-accumulation-steps --update-freq",
    "use --patience": "--early-stopping",
    "use --clip-norm": "--max-grad-norm",
    "use --dtype bfloat16": "--fp16 --bf16",
    "use --init-from": "--finetune-from-model --train-from --pretrained-model",
    "one table for both sides and the output is the default; see --tied-embeddings": "--share-all-"
    "embeddings --tied-embeddings-all",
    "use --norm-placement pre": "--encoder-normalize-before --decoder-normalize-before",
    "use --direction, as in --direction en-de": "--source-lang --target-lang",
    "use --beam-size": "--num-beams --beam",
    "use --alpha, with --length-penalty power": "--lenpen --normalize",
}
HINTS = {option: hint for hint, options in _HINTS.items() for option in options.split()}


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
