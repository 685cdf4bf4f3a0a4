"""Where arrays are stored on many devices: a mesh, and which part of each array a device holds.

data    devices along it hold the same parameters and read different sentences
fsdp    they read different sentences too, and parameters and optimizer state are sharded along D
tensor  heads, the feed-forward layer's width and the vocabulary are sharded; sentences are the same
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from transformer_jax.config import ModelConfig, TrainConfig
from transformer_jax.config.train import mesh_sizes
from transformer_jax.errors import UserError
from transformer_jax.models.families import family_of

__all__ = ["BATCH_AXES", "Layout", "make_layout", "single_device_template"]

# Mesh axes along which a batch is cut.
BATCH_AXES = ("data", "fsdp")
# Letter of a dimension -> the mesh axis that cuts it.
_MESH_AXIS = {"D": "fsdp", **dict.fromkeys(("H", "HK", "HDv", "F", "V"), "tensor")}


class Layout:
    """A mesh of devices, and which part of each array every device holds."""

    def __init__(self, devices: Sequence[Any], data: int = 1, fsdp: int = 1, tensor: int = 1):
        sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
        self.sizes = sizes
        self.mesh = jax.make_mesh(
            tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 3, devices=devices
        )
        self.replicated = NamedSharding(self.mesh, P())
        self.row_sharding = NamedSharding(self.mesh, P(BATCH_AXES))
        self.shards = data * fsdp
        self.batch_axes = tuple(name for name in BATCH_AXES if sizes[name] > 1)

    def __str__(self) -> str:
        used = [f"{name}={size}" for name, size in self.sizes.items() if size > 1]
        return ",".join(used) or "one device"

    def specs(self, tree, axes) -> Any:
        """Return the PartitionSpec of every leaf of parameters, gradients or a training state.

        A leaf without logical axes is replicated. So is a dimension whose size its mesh axis does
        not divide: a vocabulary's, or half of d_model in a recurrent cell (`make_layout` refuses
        other sizes).

        Args:
            tree: Shapes.
            axes: The logical axes of each leaf.
        """

        def spec(leaf, letters):
            cut = [_MESH_AXIS.get(letter) for letter in letters]
            return P(
                *(a if self._is_sharded(a, size) else None for a, size in zip(cut, leaf.shape))
            )

        return jax.tree.map(spec, tree, axes)

    def check_axes(self, params, axes) -> None:
        """Raise UserError for a parameter without logical axes where the mesh shards parameters.

        Args:
            params: Parameters, or their shapes.
            axes: Their logical axes, of the same structure.
        """
        if self.sizes["fsdp"] == self.sizes["tensor"] == 1:
            return
        leaves = jax.tree_util.tree_leaves_with_path(params)
        for (path, leaf), letters in zip(leaves, jax.tree.leaves(axes), strict=True):
            if leaf.ndim and not len(letters):
                raise UserError(
                    f"mesh {self} cannot shard parameter {jax.tree_util.keystr(path)}, whose "
                    "dimensions have no names: make it with nn.with_logical_partitioning, or take "
                    "a mesh of data alone"
                )

    def _is_sharded(self, axis: str | None, size: int) -> bool:
        return axis is not None and self.sizes[axis] > 1 and size % self.sizes[axis] == 0

    def shardings(self, tree, axes) -> Any:
        """Return `specs` as shardings on the mesh.

        Args:
            tree: Arrays, or their shapes.
            axes: Their logical axes, of the same structure.
        """
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), self.specs(tree, axes))

    def restore_template(self, tree, axes) -> Any:
        """Return the shapes of a tree with their shardings, as checkpoints are restored to.

        Args:
            tree: Arrays, or their shapes.
            axes: Their logical axes, of the same structure.
        """
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            self.shardings(tree, axes),
        )

    def local_rows(self, indices: np.ndarray) -> np.ndarray:
        """Choose those of a batch's sentences that this process reads.

        The rows are filled up to a multiple of the number of parts that a batch is divided into; -1
        marks rows that fill it up.
        """
        missing = -len(indices) % self.shards
        indices = np.pad(indices, (0, missing), constant_values=-1)
        if jax.process_count() == 1:
            return indices
        parts = self.row_sharding.addressable_devices_indices_map(indices.shape).values()
        rows = {(part.start or 0, part.stop or len(indices)) for (part,) in filter(None, parts)}
        return np.concatenate([indices[start:stop] for start, stop in sorted(rows)])

    def shard_map_rows(
        self, function: Callable, takes: tuple, gives: Any, axes: Iterable[str] = BATCH_AXES
    ) -> Callable:
        """Apply `jax.shard_map` along some mesh axes; along the others the compiler divides the
        work.

        Args:
            function: Of what each device holds.
            takes: in_specs; what takes no axis arrives whole.
            gives: out_specs.
            axes: Mesh axes, by default those along which a batch is divided.
        """
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=takes,
            out_specs=gives,
            axis_names=set(axes),
            check_vma=False,
        )

    def shard_batch(self, batch: Any) -> Any:
        """Put the rows of `local_rows` on their devices."""
        place = functools.partial(jax.make_array_from_process_local_data, self.row_sharding)
        return jax.tree.map(place, batch)


def _check_fit(model: ModelConfig, sizes: dict[str, int]) -> None:
    for axis, names in family_of(model).divisible.items():
        size = sizes.get(axis, 1)
        for name in names:
            if getattr(model, name) % size:
                raise UserError(
                    f"{name} {getattr(model, name)} is not divisible by the {size} devices of "
                    f"mesh axis {axis}: choose another pair"
                )


def make_layout(model: ModelConfig, train: TrainConfig) -> Layout:
    """Make the layout that `train.parallel` and `train.mesh` ask for on the devices there are.

    Args:
        model: The model, whose sizes the mesh must divide.
        train: The options of training.

    Raises:
        UserError: It does not fit the devices or the model.
    """
    devices, processes = jax.devices(), jax.process_count()
    if train.parallel in ("jit", "pmap") and processes > 1:
        raise UserError(
            f"--parallel {train.parallel} runs on the devices of one process, there are "
            f"{processes} processes: take --parallel mesh"
        )
    if train.parallel == "jit":
        return Layout(devices[:1])
    if train.parallel == "pmap":
        return Layout(devices, data=len(devices))
    sizes = mesh_sizes(train.mesh)
    fixed = sizes.get("fsdp", 1) * sizes.get("tensor", 1)
    if "data" not in sizes and fixed <= len(devices) and len(devices) % fixed:
        raise UserError(
            f"mesh {train.mesh} has {fixed} devices, which do not divide the {len(devices)} there "
            "are: give the number of copies with data="
        )
    sizes = {"data": max(len(devices) // fixed, 1), **sizes}
    wanted = int(np.prod(list(sizes.values())))
    named = ",".join(f"{name}={size}" for name, size in sizes.items())
    if wanted > len(devices):
        raise UserError(f"mesh {named} needs {wanted} devices, there are {len(devices)}")
    if wanted < len(devices) and processes > 1:
        raise UserError(
            f"mesh {named} has {wanted} devices, the {processes} processes have {len(devices)}: "
            "it must hold all of them"
        )
    _check_fit(model, sizes)
    return Layout(devices[:wanted], **sizes)


def single_device_template(tree, sharding: jax.sharding.Sharding | None = None):
    """Give the shapes of a tree a sharding, as `Checkpoints.restore` wants them.

    Args:
        tree: Arrays or shapes.
        sharding: Of every leaf; by default the first device of this process.
    """
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
