"""Three ways to run a step: on one device (jit), on those of one process (pmap), on a mesh of any.

All three are a `StepRunner`: they add up the same `gradients` and hand the total to the same
`update`. They differ in which device computes which rows of a batch, and in how the parts of a sum
come together.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from transformer_jax.data.batching import Batch, BatchShape
from transformer_jax.devices.layout import BATCH_AXES, Layout
from transformer_jax.functional.rows import rows_cut_along
from transformer_jax.training.state import TrainState
from transformer_jax.training.step import StepFunctions, Sums, add_sums

__all__ = ["JitStep", "MeshStep", "PmapStep", "StepMemory", "StepRunner", "make_runner"]


class StepMemory(NamedTuple):
    """Bytes that a step needs on a device.

    Attributes:
        persistent: For the state and the sums.
        temporary: For what it computes meanwhile.
    """

    persistent: int
    temporary: int


class StepRunner:
    """step(state, micro_batches) -> (state, metrics); the state is donated.

    One micro-batch is one compiled call; several are added up, one call each, so that every
    batch shape is compiled once however the batches are combined. A subclass says how rows are
    distributed over the devices of `layout`, how the parts of sums come together, and what a batch
    is there. `template` holds a state's shapes and shardings.
    """

    def __init__(self, functions: StepFunctions, layout: Layout):
        self.layout = layout
        self._functions = functions
        shapes, axes = functions.shapes(), functions.axes()
        layout.check_axes(shapes.params, axes.params)
        self.template = layout.restore_template(shapes, axes)
        self._specs = layout.specs(shapes.params, axes.params)
        gradients, total, update = self._gradients, self._total, functions.update

        def whole(state, batch):
            return update(state, total(first(state, batch)))

        def first(state, batch):
            return gradients(state, self._collections(state), batch, 0)

        def add(sums, state, batch, micro):
            return add_sums(sums, gradients(state, sums.collections, batch, micro))

        def last(state, sums):
            return update(state, total(sums))

        # Named by what goes in and what comes out; the first argument may be overwritten.
        self._whole = self._compiled(whole, ("state", "batch"), ("state", "metrics"), donate=True)
        self._first = self._compiled(first, ("state", "batch"), "sums", donate=False)
        self._add = self._compiled(add, ("sums", "state", "batch", "micro"), "sums", donate=True)
        self._last = self._compiled(last, ("state", "sums"), ("state", "metrics"), donate=True)

    def _collections(self, state: TrainState) -> Any:
        """Those of a state, as they lie in sums."""
        return state.collections

    def _gradients(self, state: TrainState, collections: Any, batch: Batch, micro: int) -> Sums:
        """Sums of a batch, perhaps in parts that `_total` adds up."""
        rng = self._functions.rng(state, micro)
        return self._functions.gradients(state.params, collections, batch, rng)

    def _total(self, sums: Sums) -> Sums:
        """The sums of all devices."""
        raise NotImplementedError

    def _sums(self) -> Sums:
        """How the sums of `_gradients` lie."""
        whole: Any = P()
        return Sums(self._specs, whole, whole, whole, whole)

    def _compiled(self, function: Callable, takes, gives, *, donate: bool) -> Any:
        mesh = self.layout.mesh
        places = {
            "state": jax.tree.map(lambda leaf: leaf.sharding, self.template),
            "batch": self.layout.row_sharding,
            "sums": jax.tree.map(lambda spec: NamedSharding(mesh, spec), self._sums()),
            "micro": self.layout.replicated,
            "metrics": self.layout.replicated,
        }
        out = places[gives] if isinstance(gives, str) else tuple(places[name] for name in gives)
        return jax.jit(
            function,
            donate_argnums=0 if donate else (),
            in_shardings=tuple(places[name] for name in takes),
            out_shardings=out,
        )

    def place_batch(self, batch: Any) -> Any:
        """Put a batch, the rows of `layout.local_rows`, where the step takes it from."""
        raise NotImplementedError

    def __call__(self, state: TrainState, micro_batches: Sequence[Batch]):
        if len(micro_batches) == 1:
            return self._whole(state, micro_batches[0])
        sums = self._first(state, micro_batches[0])
        for micro, batch in enumerate(micro_batches[1:], 1):
            sums = self._add(sums, state, batch, micro)
        return self._last(state, sums)

    @property
    def state_bytes(self) -> int:
        """Bytes of the state on one device."""
        return sum(_device_bytes(leaf) for leaf in jax.tree.leaves(self.template))

    def memory(self, shape: BatchShape, accumulation_steps: int) -> StepMemory:
        """Measure what a step on batches of a shape needs: compiled, but not run.

        Args:
            shape: Shape of the batches.
            accumulation_steps: Micro-batches in a step.
        """
        persistent = self.state_bytes
        if accumulation_steps == 1:
            return StepMemory(persistent, _analysis(self.lower(shape)).temp_size_in_bytes)
        batch = self._batch(shape)
        first = self._first.lower(self.template, batch)
        sums = jax.eval_shape(self._first, self.template, batch)
        found = [_analysis(first), _analysis(self._add.lower(sums, self.template, batch, 1))]
        persistent += found[0].output_size_in_bytes
        return StepMemory(persistent, max(each.temp_size_in_bytes for each in found))

    def lower(self, shape: BatchShape) -> Any:
        """Lower a step on one batch of a shape; it is not compiled yet."""
        return self._whole.lower(self.template, self._batch(shape))

    def _batch(self, shape: BatchShape) -> Any:
        """What `place_batch` makes of a batch of a shape: sizes alone."""
        rows = -(-shape.rows // self.layout.shards) * self.layout.shards
        sizes = ((rows, shape.source), (rows, shape.target), (rows,))
        leaves: Any = (jax.ShapeDtypeStruct(size, "int32") for size in sizes)
        return Batch(*leaves)


def _device_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of a leaf's part on one device."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def _analysis(lowered) -> Any:
    return lowered.compile().memory_analysis()


class JitStep(StepRunner):
    """A step on one device, by default the first."""

    def __init__(self, functions: StepFunctions, layout: Layout | None = None):
        super().__init__(functions, layout or Layout(jax.devices()[:1]))

    def _total(self, sums):
        return sums

    def place_batch(self, batch):
        return batch


class PmapStep(StepRunner):
    """A step on all devices of a process, each with the whole state and a part of the rows."""

    def _gradients(self, state, collections, batch, micro):
        with rows_cut_along("devices"):
            return super()._gradients(state, collections, batch, micro)

    def _total(self, sums):
        # Of gradients of local sums: the gradient of a psum would be N times too large.
        added = jax.lax.psum(sums._replace(collections={}), "devices")
        return added._replace(collections=_agreed(sums.collections, ("devices",)))

    def _compiled(self, function, takes, gives, *, donate):
        axis = {"state": None, "metrics": None, "micro": None, "batch": 0, "sums": 0}
        return jax.pmap(
            function,
            axis_name="devices",
            devices=list(self.layout.mesh.devices.flat),
            in_axes=tuple(axis[name] for name in takes),
            out_axes=axis[gives] if isinstance(gives, str) else tuple(axis[g] for g in gives),
            donate_argnums=0 if donate else (),
        )

    def place_batch(self, batch):
        parts = self.layout.shards
        return jax.tree.map(lambda rows: np.reshape(rows, (parts, -1, *rows.shape[1:])), batch)

    def _batch(self, shape):
        parts = self.layout.shards

        def cut(leaf):
            return jax.ShapeDtypeStruct((parts, leaf.shape[0] // parts, *leaf.shape[1:]), "int32")

        return jax.tree.map(cut, super()._batch(shape))


class MeshStep(StepRunner):
    """A step on a mesh: parameters lie as `Layout` says and are gathered along fsdp for a step.

    Gradients are computed by hand along data and fsdp, so that they travel once an update and a
    table that is used three times travels once; along tensor the compiler divides the work.
    """

    def _collections(self, state):
        parts = self.layout.shards
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * parts), state.collections)

    def _gradients(self, state, collections, batch, micro):
        specs = self._specs

        def gather(params):
            return jax.tree.map(_gather, params, specs)

        def part(params, collections, batch, rng):
            with rows_cut_along(*self.layout.batch_axes):
                sums = self._functions.gradients(params, _own(collections), batch, rng)
            return jax.tree.map(lambda leaf: leaf[None], sums)

        whole = jax.tree.map(_without_fsdp, specs)
        gathered = self.layout.shard_map_rows(gather, (specs,), whole, axes=self.layout.sizes)
        takes = (P(), P(BATCH_AXES), P(BATCH_AXES), P())
        parts = self.layout.shard_map_rows(part, takes, gives=P(BATCH_AXES))
        rng = self._functions.rng(state, micro)
        return parts(gathered(state.params), collections, batch, rng)

    def _total(self, sums):
        specs = self._specs

        def add_up(sums):
            gradients = jax.tree.map(scatter, sums.gradients, specs)
            rest = _own(sums._replace(gradients={}, collections={}))
            rest = jax.lax.psum(rest, self.layout.batch_axes)
            collections = _agreed(_own(sums.collections), self.layout.batch_axes)
            return rest._replace(gradients=gradients, collections=collections)

        def scatter(part, spec):
            """The sum of all parts [1, ...] of a gradient; of it, what the device keeps."""
            if "fsdp" not in spec:
                return jax.lax.psum(part[0], self.layout.batch_axes)
            axis = spec.index("fsdp")
            own = jax.lax.psum_scatter(part[0], "fsdp", scatter_dimension=axis, tiled=True)
            return jax.lax.psum(own, "data") if "data" in self.layout.batch_axes else own

        gives = super()._sums()
        return self.layout.shard_map_rows(add_up, (self._sums(),), gives, axes=self.layout.sizes)(
            sums
        )

    def _sums(self):
        """How parts of sums lie, each a whole gradient but for what tensor cuts."""
        parts: Any = P(BATCH_AXES)
        whole = jax.tree.map(lambda spec: P(BATCH_AXES, *_without_fsdp(spec)), self._specs)
        return Sums(whole, parts, parts, parts, parts)

    def place_batch(self, batch):
        return self.layout.shard_batch(batch)


def _own(tree):
    """Of parts [1, ...], that of this device."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _agreed(collections, axes):
    """Collections that every device holds: of what each made of its own rows the mean, and of
    integers the largest. Those made with `row_axes` are alike already."""

    def agree(leaf):
        floating = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return (jax.lax.pmean if floating else jax.lax.pmax)(leaf, axes)

    return jax.tree.map(agree, collections)


def _without_fsdp(spec):
    return P(*(None if axis == "fsdp" else axis for axis in spec))


def _gather(leaf, spec):
    """The whole of a parameter along fsdp."""
    if "fsdp" not in spec:
        return leaf
    return jax.lax.all_gather(leaf, "fsdp", axis=spec.index("fsdp"), tiled=True)


def make_runner(parallel: str, functions: StepFunctions, layout: Layout) -> StepRunner:
    """Make the runner that TrainConfig.parallel names.

    Args:
        parallel: auto, jit, pmap or mesh.
        functions: The step functions.
        layout: The devices.
    """
    if parallel == "pmap":
        return PmapStep(functions, layout)
    kind = JitStep if layout.mesh.size == 1 else MeshStep
    return kind(functions, layout)
