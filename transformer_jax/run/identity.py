"""What makes two jobs the same run: one number of its configuration and its text.

A checkpoint carries the number of the run that saved it, for ever. Therefore it is made of what
differs from the defaults alone: a field that is new changes no number as long as its default does
what was done before it, and a default never changes (tests/run/test_identity.py has the list).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from transformer_jax.config import RunConfig
from transformer_jax.config.renamed import FIELDS
from transformer_jax.run.changes import OptimizerChange, changed_settings

__all__ = ["identity", "old_identities"]

# Today's name of a field -> the one that numbers are made of: that which it had at first.
_FIRST_NAMES = {
    f"{part}.{new}": f"{part}.{old}"
    for part, fields in FIELDS.items()
    for old, new in fields.items()
}
# The fields of version 0.1.0, which made the number of all of them.
_NAMES = (
    "data.batch_tokens data.dataset data.direction data.max_length data.num_shapes "
    "data.vocabulary model.attention model.attention_dropout model.d_ff model.d_k model.d_model "
    "model.d_v model.dropout model.dtype model.max_positions model.norm model.norm_epsilon "
    "model.num_heads model.num_layers model.positions model.relu_dropout model.start_id model.tied "
    "model.vocab_size optimizer.accumulate optimizer.beta1 optimizer.beta2 optimizer.clip_norm "
    "optimizer.ema_decay optimizer.epsilon optimizer.label_smoothing optimizer.lr_factor "
    "optimizer.warmup_steps train.seed"
)
_FIELDS = _NAMES.split()


def identity(
    config: RunConfig, corpus_fingerprint: str, changes: Sequence[OptimizerChange] = ()
) -> str:
    """Compute SHA-256 of the deciding fields that are not at their defaults, and of the corpus.

    Args:
        config: The configuration after all changes.
        corpus_fingerprint: Fingerprint of the training text.
        changes: What was changed since the run began: each counts with its step.
    """
    if not changes:
        return _number(_changed(config), corpus_fingerprint)
    first = replace(config, optimizer=changes[0].before)
    changed = [
        [step, {_first_name(f"optimizer.{name}"): value for name, value in settings.items()}]
        for step, settings in changed_settings(config.optimizer, changes)
    ]
    return _number(_changed(first) | {"changes": changed}, corpus_fingerprint)


def old_identities(config: RunConfig, corpus_fingerprint: str) -> list[str]:
    """List what version 0.1.0 gave the same run; nothing for one that it could not have trained."""
    if _changed(config).keys() - set(_FIELDS):
        return []
    decides = _named_at_first(config)
    fields = {name: decides[name] for name in _FIELDS}
    if config.data.dataset is not None:
        return [_number(fields, corpus_fingerprint)]
    # It took the direction of own files for something that decides, en-de where none was given.
    directions = {"en-de", config.data.direction}
    return [_number(fields | {"data.direction": d}, corpus_fingerprint) for d in directions]


def _changed(config: RunConfig) -> dict[str, object]:
    defaults = _named_at_first(RunConfig())
    return {n: value for n, value in _named_at_first(config).items() if value != defaults[n]}


def _named_at_first(config: RunConfig) -> dict[str, object]:
    return {_first_name(name): value for name, value in config.identity_fields().items()}


def _first_name(name: str) -> str:
    return _FIRST_NAMES.get(name, name)


def _number(fields: dict[str, object], corpus_fingerprint: str) -> str:
    decides = json.dumps([fields, corpus_fingerprint], sort_keys=True)
    return hashlib.sha256(decides.encode()).hexdigest()
