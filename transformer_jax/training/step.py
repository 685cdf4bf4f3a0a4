"""One training step as two pure functions, `gradients` and `update`.

`gradients` returns sums over what a batch counts, tokens or rows, so micro-batches, devices and
hosts combine by adding; the division by the count happens once, in `update`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from transformer_jax.functional.keys import seed_key
from transformer_jax.models.dimensions import axes_of, state_axes
from transformer_jax.training.frozen import select_frozen
from transformer_jax.training.state import TrainState, create_state

__all__ = ["GradientSums", "Loss", "StepFunctions", "add_sums", "make_step"]

Loss = Callable[
    [Any, Any, Any, jax.Array], tuple[jax.Array, jax.Array, dict[str, jax.Array], dict[str, Any]]
]


# What a record holds of every step, and so no metric of a loss may be called.
RECORDED = {"step", "loss", "tokens", "learning_rate", "gradient_norm", "skipped"}


class GradientSums(NamedTuple):
    """Sums over what a batch counts, tokens or rows; those of several batches add up.

    Attributes:
        gradients: Gradient of the summed loss.
        loss: Summed loss in nats.
        counted: What it was summed over.
        metrics: Further sums, by name.
        collections: Not sums: the collections as the batch left them.
    """

    gradients: Any
    loss: jax.Array
    counted: jax.Array
    metrics: dict[str, jax.Array]
    collections: dict[str, Any]


def add_sums(sums: GradientSums, more: GradientSums) -> GradientSums:
    """Add the sums of two batches; the collections are those of the later one."""
    own, others = (each._replace(collections={}) for each in (sums, more))
    return jax.tree.map(jnp.add, own, others)._replace(collections=more.collections)


class StepFunctions(NamedTuple):
    """The pure functions of training one model.

    Attributes:
        init: rng -> TrainState.
        axes: () -> TrainState of the logical axes of each leaf.
        gradients: (params, collections, batch, rng) -> GradientSums.
        update: (state, GradientSums) -> (state, metrics).
        rng: (state, micro) -> key for the dropout of one micro-batch of this step.
    """

    init: Callable[[jax.Array], TrainState]
    axes: Callable[[], TrainState]
    gradients: Callable[[Any, Any, Any, jax.Array], GradientSums]
    update: Callable[[TrainState, GradientSums], tuple[TrainState, dict[str, jax.Array]]]
    rng: Callable[[TrainState, int], jax.Array]

    def shapes(self) -> TrainState:
        """Shapes and dtypes of a state; nothing is computed."""
        return jax.eval_shape(self.init, seed_key(0))


def make_step(
    init: Callable[[jax.Array], Mapping[str, Any]],
    loss_fn: Loss,
    optimizer: optax.GradientTransformation,
    *,
    schedule: optax.Schedule | None = None,
    ema_decay: float | None = None,
    seed: int = 0,
    frozen: Sequence[str] = (),
) -> StepFunctions:
    """Make the step functions for any initialisation, loss and optimizer; nothing is compiled here.

    Args:
        init: rng -> variables as Flax has them: "params" and other collections, such as running
            statistics. Leaves may be boxed with the names of their logical axes
            (`nn.with_logical_partitioning`); a leaf without names is replicated on a mesh.
        loss_fn: (params, collections, batch, rng) -> (loss_sum, count, metric_sums, collections).
            The sums are over what the batch counts, metric_sums is a dict of them by name, and all
            are taken as float32. The collections are those that the batch leaves behind; of several
            micro-batches each sees those of the one before. Where devices share a batch, each sees
            its own rows; `functional.row_axes()` names the axes to sum over for what needs all.
        optimizer: Any optax.GradientTransformation. Its update is computed once, from the mean
            gradient, and is left out where that is not finite, as are the collections.
        schedule: What the optimizer takes its learning rate from, so that records show it. One that
            the optimizer's state holds, as `optax.inject_hyperparams` keeps it, comes first;
            without either none is recorded.
        ema_decay: Decay of a moving average of the parameters; None keeps none.
        seed: Seed of parameters and dropout.
        frozen: Parameters that keep their values, named as for `OptimizerConfig.frozen`. Their
            gradients are zeros, which no norm counts; their moments are kept, so that other
            parameters may be frozen later.

    Returns:
        The step functions, for a runner.

    >>> def loss_fn(params, collections, batch, rng):
    ...     error = params["w"] - batch
    ...     return jnp.sum(error**2), jnp.float32(len(batch)), {}, collections
    >>> init = lambda rng: {"params": {"w": jnp.zeros(())}}
    >>> functions = make_step(init, loss_fn, optax.sgd(0.5))
    >>> state = functions.init(jax.random.key(0))
    >>> sums = functions.gradients(state.params, {}, jnp.array([1.0, 3.0]), jax.random.key(0))
    >>> functions.update(state, sums)[0].params
    {'w': Array(2., dtype=float32)}
    """

    def create(rng):
        variables = dict(nn.unbox(init(rng)))
        params = variables.pop("params")
        return create_state(params, optimizer, ema_decay is not None, variables)

    def axes():
        state = jax.eval_shape(create, seed_key(0))
        return state_axes(state, state.params, axes_of(init))

    def keep_frozen(tree, replaced):
        if not frozen:
            return tree
        found = select_frozen(tree, frozen)
        return jax.tree.map(
            lambda leaf, is_frozen: replaced(leaf) if is_frozen else leaf, tree, found
        )

    def gradients(params, collections, batch, rng):
        def summed_loss(params):
            # So that nothing is computed for gradients that are not used.
            params = keep_frozen(params, jax.lax.stop_gradient)
            *sums, after = loss_fn(params, collections, batch, rng)
            loss, *rest = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), sums)
            return loss, (*rest, after)

        (loss, rest), grads = jax.value_and_grad(summed_loss, has_aux=True)(params)
        return GradientSums(grads, loss, *rest)

    def update(state, sums):
        count = jnp.maximum(sums.counted, 1.0)
        mean = jax.tree.map(lambda g: (g / count).astype(g.dtype), sums.gradients)
        # Not finite where an entry is not, or where its square is not, which would spoil Adam's
        # second moment for good.
        norm = optax.tree.norm(mean)
        finite = jnp.isfinite(norm) & jnp.isfinite(sums.loss)
        updates, opt_state = optimizer.update(mean, state.opt_state, state.params)
        updates = keep_frozen(updates, jnp.zeros_like)  # moments and weight decay move them, too
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay is not None:
            ema = optax.incremental_update(params, ema, 1.0 - ema_decay)

        def where_finite(new, old):
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        after = TrainState(
            state.step + 1,
            where_finite(params, state.params),
            where_finite(opt_state, state.opt_state),
            where_finite(ema, state.ema),
            state.skipped + (~finite).astype(jnp.int32),
            jnp.where(finite, 0, state.consecutive_skips + 1),
            where_finite(sums.collections, state.collections),
        )
        if taken := RECORDED & sums.metrics.keys():
            raise ValueError(f"a metric cannot be named {min(taken)}, which every record has")
        metrics = {
            "loss_sum": sums.loss,
            "tokens": sums.counted,
            "metric_sums": sums.metrics,
            "gradient_norm": norm,
            "skipped": after.skipped,
            "consecutive_skips": after.consecutive_skips,
        }
        rates = _rates(opt_state)
        if schedule is not None and not rates:
            # Skipped steps do not advance the schedule.
            rates = [schedule(state.step - state.skipped)]
        return after, metrics | ({"learning_rate": rates[0]} if rates else {})

    def rng(state, micro):
        return jax.random.fold_in(jax.random.fold_in(seed_key(seed), state.step), micro)

    return StepFunctions(create, axes, gradients, update, rng)


def _rates(opt_state: Any) -> list[jax.Array]:
    """Learning rates that an optimizer keeps in its state, where `inject_hyperparams` has them."""
    found = optax.tree.get_all_with_path(opt_state, "learning_rate")
    return [value for _, value in found if isinstance(value, jax.Array)]
