"""A training state as the trees of a checkpoint, and back."""

from typing import Any

from transformer_jax.training.state import TrainState

__all__ = ["prediction_items", "state_from_items", "state_to_items", "variables_of"]

_COUNTERS = ("skipped", "consecutive_skips")


def prediction_items(state: TrainState) -> dict[str, Any]:
    """Those of `state_to_items` that predicting needs."""
    collections = {"collections": state.collections} if state.collections else {}
    return {"params": state.params, **collections}


def variables_of(items: dict[str, Any]) -> dict[str, Any]:
    """Turn the items of a checkpoint into Flax's variables."""
    return {"params": items["params"], **items.get("collections", {})}


def state_to_items(state: TrainState) -> dict[str, Any]:
    """Turn a state into the trees of a checkpoint; parameters stand alone so they load alone."""
    optimizer = {name: getattr(state, name) for name in ("step", "opt_state", *_COUNTERS)}
    items = {**prediction_items(state), "optimizer": optimizer}
    return items if state.ema is None else {**items, "ema": state.ema}


def state_from_items(items: dict[str, Any]) -> TrainState:
    """The inverse of `state_to_items`."""
    collections = items.get("collections", {})
    return TrainState(
        params=items["params"], ema=items.get("ema"), collections=collections, **items["optimizer"]
    )
