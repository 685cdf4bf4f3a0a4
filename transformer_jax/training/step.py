"""One training step as two pure functions, `gradients` and `update`.

`gradients` returns sums over the tokens of one batch, so micro-batches, devices and hosts
combine by adding; the division by the number of tokens happens once, in `update`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from transformer_jax.config import OptimizerConfig
from transformer_jax.data.batching import Batch
from transformer_jax.functional.keys import seed_key
from transformer_jax.functional.losses import label_smoothed_cross_entropy
from transformer_jax.models.dimensions import axes_of, state_axes
from transformer_jax.models.transformer import Transformer
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.schedule import make_schedule
from transformer_jax.training.state import TrainState, create_state

__all__ = ["StepFunctions", "Sums", "make_step"]


class Sums(NamedTuple):
    """Over the target tokens of a batch: gradient of the loss, loss in nats, number of tokens."""

    gradients: Any
    loss: jax.Array
    tokens: jax.Array


class StepFunctions(NamedTuple):
    """The pure functions of training one model.

    init       rng -> TrainState
    axes       () -> TrainState of the letters of each leaf's dimensions
    gradients  (params, batch, rng) -> Sums
    update     (state, Sums) -> (state, metrics)
    rng        (state, micro) -> key for the dropout of one micro-batch of this step
    """

    init: Callable[[jax.Array], TrainState]
    axes: Callable[[], TrainState]
    gradients: Callable[[Any, Batch, jax.Array], Sums]
    update: Callable[[TrainState, Sums], tuple[TrainState, dict[str, jax.Array]]]
    rng: Callable[[TrainState, int], jax.Array]

    def shapes(self) -> TrainState:
        """Shapes and dtypes of a state; nothing is computed."""
        return jax.eval_shape(self.init, seed_key(0))


def make_step(model: Transformer, config: OptimizerConfig, seed: int) -> StepFunctions:
    """Step functions for a model; nothing is compiled here.

    >>> from transformer_jax import presets
    >>> functions = make_step(Transformer(presets.tiny(vocab_size=50)), OptimizerConfig(), seed=0)
    >>> functions.shapes().params["embedding"].shape
    (50, 128)
    """
    schedule = make_schedule(config, model.config.d_model)
    optimizer = make_optimizer(config, schedule)

    tokens = jnp.zeros((1, 1), jnp.int32)

    def init(rng):
        params = model.init(rng, tokens, tokens)["params"]
        return create_state(params, optimizer, ema=config.ema_decay is not None)

    def axes():
        state = jax.eval_shape(init, seed_key(0))
        return state_axes(state, state.params, axes_of(model, tokens, tokens))

    def gradients(params, batch, rng):
        # By its sentence a row draws dropout, whatever device it lies on.
        rows = batch.indices.astype(jnp.uint32)

        def summed_loss(params):
            logits: Any = model.apply(
                {"params": params},
                batch.source,
                batch.target,
                rows,
                rngs={"dropout": rng},
            )
            return label_smoothed_cross_entropy(logits, batch.target, config.label_smoothing)

        (loss, tokens), grads = jax.value_and_grad(summed_loss, has_aux=True)(params)
        return Sums(grads, loss, tokens)

    def update(state, sums):
        tokens = jnp.maximum(sums.tokens, 1.0)
        mean = jax.tree.map(lambda g: g / tokens, sums.gradients)
        # Not finite where an entry is not, or where its square is not, which would spoil Adam's
        # second moment for good.
        norm = optax.tree.norm(mean)
        finite = jnp.isfinite(norm) & jnp.isfinite(sums.loss)
        updates, opt_state = optimizer.update(mean, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if config.ema_decay is not None:
            ema = optax.incremental_update(params, ema, 1.0 - config.ema_decay)

        def keep(new, old):
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        after = TrainState(
            state.step + 1,
            keep(params, state.params),
            keep(opt_state, state.opt_state),
            keep(ema, state.ema),
            state.skipped + (~finite).astype(jnp.int32),
            jnp.where(finite, 0, state.skipped_in_a_row + 1),
        )
        metrics = {
            "loss_sum": sums.loss,
            "tokens": sums.tokens,
            "gradient_norm": norm,
            # Skipped steps do not advance the schedule.
            "learning_rate": schedule(state.step - state.skipped),
            "skipped": after.skipped,
            "skipped_in_a_row": after.skipped_in_a_row,
        }
        return after, metrics

    def rng(state, micro):
        return jax.random.fold_in(jax.random.fold_in(seed_key(seed), state.step), micro)

    return StepFunctions(init, axes, gradients, update, rng)
