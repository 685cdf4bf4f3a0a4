"""The optimizer, its schedule and the objective."""

from dataclasses import dataclass
from typing import Literal

from transformer_jax.config.checks import check_positive, check_types, require

__all__ = ["OptimizerConfig"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam, the warm-up schedule and the objective (sections 5.3 and 5.4)."""

    lr_factor: float = 1.0
    """Factor of the learning rate: it multiplies d_model^-0.5 * min(step^-0.5, step *
    warmup_steps^-1.5)."""
    warmup_steps: int = 4000
    """Steps over which the learning rate grows; its peak is lr_factor / sqrt(d_model *
    warmup_steps)."""
    peak_learning_rate: float | None = None
    """Learning rate at the end of the warm-up, in place of the one that lr_factor gives; suits
    fine-tuning, where it is far below that of training."""
    schedule: Literal["paper", "constant"] = "paper"
    """After the warm-up the learning rate falls as step^-0.5 (paper) or stays (constant)."""
    beta1: float = 0.9
    """Adam's decay of the first moment."""
    beta2: float = 0.98
    """Adam's decay of the second moment."""
    epsilon: float = 1e-9
    """Adam's epsilon."""
    label_smoothing: float = 0.1
    """Probability moved from the target to the other V - 1 classes."""
    accumulation_steps: int = 1
    """Batches whose gradients are summed into one update."""
    clip_norm: float | None = None
    """Clip the gradient to this global norm; None does not clip, as in the paper."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the parameters and use it to evaluate."""
    logits_block: int | None = None
    """Target tokens per block of logits, whose gradient is computed with the loss. None is all of a
    batch with the kernels called definition; with others at most 256, or a sixteenth of the batch
    if that is more. Numbers are equal up to rounding."""
    frozen: tuple[str, ...] = ()
    """Parameters that keep their values (in an average of checkpoints up to rounding): names of
    parts, such as embedding or encoder_0, in which an asterisk stands for anything."""

    def __post_init__(self):
        check_types(self)
        check_positive(self, "lr_factor", "warmup_steps", "epsilon", "peak_learning_rate")
        check_positive(self, "accumulation_steps", "clip_norm", "logits_block")
        require(
            self.peak_learning_rate is None or self.lr_factor == 1.0,
            f"lr_factor {self.lr_factor} and peak_learning_rate {self.peak_learning_rate} both set "
            "the peak of the learning rate: leave one out",
        )
        for name in ("beta1", "beta2", "label_smoothing", "ema_decay"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, f"{name} {value} is outside [0, 1)")
