"""Three ways to run a step: on one device (jit), on those of one process (pmap), on a mesh of any.

All three are a `Runner`: they add up the same `gradients` and hand the total to the same
`update`. They differ in which device computes which rows of a batch, and in how the parts of a sum
come together.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from transformer_jax.data.batching import Batch, BatchShape
from transformer_jax.devices.layout import BATCH_AXES, Layout
from transformer_jax.functional.rows import set_row_axes
from transformer_jax.training.programs import Program, Programs
from transformer_jax.training.state import TrainState
from transformer_jax.training.step import GradientSums, StepFunctions, add_sums

__all__ = ["MeshRunner", "PmapRunner", "Runner", "SingleDeviceRunner", "StepMemory", "make_runner"]


class StepMemory(NamedTuple):
    """Bytes that a step needs on a device.

    Attributes:
        persistent: For the state and the sums.
        temporary: For what it computes meanwhile.
    """

    persistent: int
    temporary: int


class Runner:
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
        gradients, total, update = self._gradients, self._reduce_sums, functions.update

        def full_step(state, batch):
            return update(state, total(first_micro_batch(state, batch)))

        def first_micro_batch(state, batch):
            return gradients(state, self._collections(state), batch, 0)

        def accumulate(sums, state, batch, micro):
            return add_sums(sums, gradients(state, sums.collections, batch, micro))

        def apply_update(state, sums):
            return update(state, total(sums))

        self._programs = Programs()

        def program(function, in_names, out_names, donate):
            jitted = self._jit(function, in_names, out_names, donate=donate)
            return Program(jitted, in_names, self._programs)

        # Named by what goes in and what comes out; the first argument may be overwritten.
        self._full_step = program(full_step, ("state", "batch"), ("state", "metrics"), True)
        self._first_micro_batch = program(first_micro_batch, ("state", "batch"), "sums", False)
        added = ("sums", "state", "batch", "micro")
        self._accumulate = program(accumulate, added, "sums", True)
        self._apply_update = program(apply_update, ("state", "sums"), ("state", "metrics"), True)

    def _collections(self, state: TrainState) -> Any:
        """Those of a state, as they lie in sums."""
        return state.collections

    def _gradients(
        self, state: TrainState, collections: Any, batch: Batch, micro: int
    ) -> GradientSums:
        """Sums of a batch, perhaps in parts that `_reduce_sums` adds up."""
        rng = self._functions.rng(state, micro)
        return self._functions.gradients(state.params, collections, batch, rng)

    def _reduce_sums(self, sums: GradientSums) -> GradientSums:
        """The sums of all devices."""
        raise NotImplementedError

    def _sums_spec(self) -> GradientSums:
        """How the sums of `_gradients` lie."""
        whole: Any = P()
        return GradientSums(self._specs, whole, whole, whole, whole)

    def _jit(self, function: Callable, in_names, out_names, *, donate: bool) -> Any:
        mesh = self.layout.mesh
        shardings = {
            "state": jax.tree.map(lambda leaf: leaf.sharding, self.template),
            "batch": self.layout.row_sharding,
            "sums": jax.tree.map(lambda spec: NamedSharding(mesh, spec), self._sums_spec()),
            "micro": self.layout.replicated,
            "metrics": self.layout.replicated,
        }
        out = (
            shardings[out_names]
            if isinstance(out_names, str)
            else tuple(shardings[name] for name in out_names)
        )
        return jax.jit(
            function,
            donate_argnums=0 if donate else (),
            in_shardings=tuple(shardings[name] for name in in_names),
            out_shardings=out,
        )

    def place_batch(self, batch: Any) -> Any:
        """Put a batch, the rows of `layout.local_rows`, where the step takes it from."""
        raise NotImplementedError

    def __call__(self, state: TrainState, micro_batches: Sequence[Batch]):
        if len(micro_batches) == 1:
            return self._full_step(state, micro_batches[0])
        sums = self._first_micro_batch(state, micro_batches[0])
        for micro, batch in enumerate(micro_batches[1:], 1):
            sums = self._accumulate(sums, state, batch, micro)
        return self._apply_update(state, sums)

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
        compiled = [
            program.compile(*arguments)
            for program, arguments in self._programs_of(shape, accumulation_steps)
        ]
        found = [each.memory_analysis() for each in compiled]
        sums = 0 if accumulation_steps == 1 else found[0].output_size_in_bytes
        temporary = max(each.temp_size_in_bytes for each in found)
        return StepMemory(self.state_bytes + sums, temporary)

    def compiling_ahead(
        self, shapes: Iterable[BatchShape], accumulation_steps: int
    ) -> AbstractContextManager[None]:
        """Make a context in which steps on the next shapes are compiled while others run.

        Args:
            shapes: Shapes of batches, in the order of their first use.
            accumulation_steps: Micro-batches in a step.
        """
        return self._programs.ahead(
            each for shape in shapes for each in self._programs_of(shape, accumulation_steps)
        )

    def _programs_of(
        self, shape: BatchShape, accumulation_steps: int
    ) -> Iterator[tuple[Program, Sequence[Any]]]:
        """The programs of a step that depend on the shape, with shapes of their arguments."""
        batch = self._batch(shape)
        if accumulation_steps == 1:
            yield self._full_step, (self.template, batch)
        else:
            yield self._first_micro_batch, (self.template, batch)
            sums = self._first_micro_batch.shapes(self.template, batch)
            yield self._accumulate, (sums, self.template, batch, 1)

    def lower(self, shape: BatchShape) -> Any:
        """Lower a step on one batch of a shape; it is not compiled yet."""
        return self._full_step.lower(self.template, self._batch(shape))

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


class SingleDeviceRunner(Runner):
    """A step on one device, by default the first."""

    def __init__(self, functions: StepFunctions, layout: Layout | None = None):
        super().__init__(functions, layout or Layout(jax.devices()[:1]))

    def _reduce_sums(self, sums):
        return sums

    def place_batch(self, batch):
        return batch


class PmapRunner(Runner):
    """A step on all devices of a process, each with the whole state and a part of the rows."""

    def _gradients(self, state, collections, batch, micro):
        with set_row_axes("devices"):
            return super()._gradients(state, collections, batch, micro)

    def _reduce_sums(self, sums):
        # Of gradients of local sums: the gradient of a psum would be N times too large.
        added = jax.lax.psum(sums._replace(collections={}), "devices")
        return added._replace(collections=_merge_collections(sums.collections, ("devices",)))

    def _jit(self, function, in_names, gives, *, donate):
        axis = {"state": None, "metrics": None, "micro": None, "batch": 0, "sums": 0}
        return jax.pmap(
            function,
            axis_name="devices",
            devices=list(self.layout.mesh.devices.flat),
            in_axes=tuple(axis[name] for name in in_names),
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


class MeshRunner(Runner):
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

        def gradients_of_rows(params, collections, batch, rng):
            with set_row_axes(*self.layout.batch_axes):
                sums = self._functions.gradients(
                    params, _drop_leading_axis(collections), batch, rng
                )
            return jax.tree.map(lambda leaf: leaf[None], sums)

        full_specs = jax.tree.map(_without_fsdp, specs)
        gathered = self.layout.shard_map_rows(gather, (specs,), full_specs, axes=self.layout.sizes)
        in_names = (P(), P(BATCH_AXES), P(BATCH_AXES), P())
        parts = self.layout.shard_map_rows(gradients_of_rows, in_names, gives=P(BATCH_AXES))
        rng = self._functions.rng(state, micro)
        return parts(gathered(state.params), collections, batch, rng)

    def _reduce_sums(self, sums):
        specs = self._specs

        def add_up(sums):
            gradients = jax.tree.map(scatter, sums.gradients, specs)
            rest = _drop_leading_axis(sums._replace(gradients={}, collections={}))
            rest = jax.lax.psum(rest, self.layout.batch_axes)
            collections = _merge_collections(
                _drop_leading_axis(sums.collections), self.layout.batch_axes
            )
            return rest._replace(gradients=gradients, collections=collections)

        def scatter(part, spec):
            """The sum of all parts [1, ...] of a gradient; of it, what the device keeps."""
            if "fsdp" not in spec:
                return jax.lax.psum(part[0], self.layout.batch_axes)
            axis = spec.index("fsdp")
            own = jax.lax.psum_scatter(part[0], "fsdp", scatter_dimension=axis, tiled=True)
            return jax.lax.psum(own, "data") if "data" in self.layout.batch_axes else own

        gives = super()._sums_spec()
        return self.layout.shard_map_rows(
            add_up, (self._sums_spec(),), gives, axes=self.layout.sizes
        )(sums)

    def _sums_spec(self):
        """How parts of sums lie, each a whole gradient but for what tensor cuts."""
        parts: Any = P(BATCH_AXES)
        whole = jax.tree.map(lambda spec: P(BATCH_AXES, *_without_fsdp(spec)), self._specs)
        return GradientSums(whole, parts, parts, parts, parts)

    def place_batch(self, batch):
        return self.layout.shard_batch(batch)


def _drop_leading_axis(tree):
    """Of parts [1, ...], that of this device."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _merge_collections(collections, axes):
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


def make_runner(parallel: str, functions: StepFunctions, layout: Layout) -> Runner:
    """Make the runner that TrainConfig.parallel names.

    Args:
        parallel: auto, jit, pmap or mesh.
        functions: The step functions.
        layout: The devices.
    """
    if parallel == "pmap":
        return PmapRunner(functions, layout)
    kind = SingleDeviceRunner if layout.mesh.size == 1 else MeshRunner
    return kind(functions, layout)
