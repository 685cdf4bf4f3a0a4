"""How long a run trains, what it keeps, and the devices that it runs on."""

from dataclasses import dataclass
from typing import Literal

from transformer_jax.config.checks import check_positive, check_types, require

__all__ = ["TrainConfig", "mesh_sizes"]


@dataclass(frozen=True)
class TrainConfig:
    """How long a run trains, what it records and what it keeps."""

    steps: int = 100_000
    """Updates in total."""
    seed: int = 0
    """Seed of parameters, dropout and the order of batches."""
    log_every: int = 50
    """Steps between training records in metrics.jsonl."""
    evaluate_every: int = 1000
    """Steps between evaluations on the validation text; every checkpoint is evaluated too."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    checkpoint_every_epoch: bool = False
    """Save at the end of each epoch instead of every checkpoint_every steps."""
    keep_last: int = 5
    """Number of the newest checkpoints to keep."""
    keep_every: int | None = None
    """Keep permanently every checkpoint whose step is a multiple of this."""
    best_metric: str = "loss"
    """Metric that decides the best checkpoint, which is kept: loss, perplexity or accuracy on the
    validation text, or bleu or chrf of its translation (chrf replaces bleu in languages that
    sacreBLEU cannot split into words). Other tasks have other metrics."""
    patience: int | None = None
    """Stop after this many consecutive evaluations (evaluate_every) without a gain in
    best_metric."""
    min_delta: float = 0.0
    """Smallest change that counts as a gain, in the metric's own units."""
    average_last: int = 5
    """Checkpoints to average at the end (section 6.1: 5 for base, 20 for big)."""
    max_consecutive_skips: int = 20
    """Stop after this many consecutive steps whose gradient is not finite; such steps are
    skipped."""
    checkpoint_dir: str | None = None
    """Folder of checkpoints, if not the run folder: on another disk, or gs://BUCKET/FOLDER or
    s3://BUCKET/FOLDER where orbax and etils support them."""
    parallel: Literal["auto", "jit", "pmap", "mesh"] = "auto"
    """jit: one device; pmap: all devices of one process; mesh: any devices of any processes; auto:
    jit on one device, otherwise mesh."""
    mesh: str | None = None
    """Devices along each axis, such as data=2,fsdp=2,tensor=2. An unnamed axis has 1, and data has
    what the others leave."""

    def __post_init__(self):
        check_types(self)
        check_positive(self, "steps", "log_every", "evaluate_every", "checkpoint_every")
        check_positive(
            self, "keep_last", "keep_every", "average_last", "max_consecutive_skips", "patience"
        )
        require(self.min_delta >= 0, f"min_delta {self.min_delta} must not be negative")
        require(
            self.average_last <= self.keep_last,
            f"average_last {self.average_last} is more than keep_last {self.keep_last} checkpoints",
        )
        require(0 <= self.seed < 2**63, f"seed {self.seed} is outside [0, 2^63)")
        require(
            not mesh_sizes(self.mesh) or self.parallel in ("auto", "mesh"),
            f"mesh {self.mesh} belongs to --parallel mesh, not {self.parallel}: leave one out",
        )


def mesh_sizes(mesh: str | None) -> dict[str, int]:
    """Axis -> devices, as TrainConfig.mesh names them.

    >>> mesh_sizes("data=2,tensor=4")
    {'data': 2, 'tensor': 4}
    """
    sizes: dict[str, int] = {}
    for part in mesh.split(",") if mesh else ():
        name, _, size = part.partition("=")
        known = name in ("data", "fsdp", "tensor") and name not in sizes
        require(
            known and size.isdecimal() and len(size) < 10 and int(size) > 0,
            f"mesh {mesh!r}: {part!r} is invalid; write for example data=2,fsdp=2,tensor=2",
        )
        sizes[name] = int(size)
    return sizes
