"""A training step on one batch of random sentences, and its loss alone: ours and torch's."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.config import ModelConfig, OptimizerConfig

__all__ = ["Step", "our_loss", "our_step", "torch_loss", "torch_step"]


def tokens(rows: int, length: int, vocabulary: int) -> np.ndarray:
    """Random sentences without padding, EOS last."""
    found = np.random.default_rng(0).integers(4, vocabulary, (rows, length), np.int32)
    found[:, -1] = 1
    return found


class Step(NamedTuple):
    """A training step on one batch.

    Attributes:
        run: Takes the step; it may return before it is done.
        loss: Waits for the last step, and returns its loss per token.
        memory: Bytes that the compiler says it needs, where there is a compiler that says so.
    """

    run: Callable[[], None]
    loss: Callable[[], float]
    memory: dict[str, int]

    def take(self) -> float:
        """Take the step, wait until it is done, and return its loss per token."""
        self.run()
        return self.loss()


def our_step(model: ModelConfig, rows: int, length: int) -> Step:
    """A step of ours; the state is made when it is first taken."""
    import jax

    from transformer_jax.data.batching import Batch, BatchShape
    from transformer_jax.models.families import build_model
    from transformer_jax.tasks import Task
    from transformer_jax.training.runners import SingleDeviceRunner

    functions = Task().step_functions(build_model(model), OptimizerConfig(), seed=0)
    runner = SingleDeviceRunner(functions)
    memory = runner.memory(BatchShape(rows, length, length), 1)
    state: list[Any] = []
    side = tokens(rows, length, model.vocab_size)
    batch = jax.device_put(Batch(side, side[::-1].copy(), np.arange(rows, dtype=np.int32)))
    metrics: list[Any] = [None]

    def run():
        before = state.pop() if state else jax.jit(functions.init)(jax.random.key(0))
        after, metrics[0] = runner(before, [batch])
        state.append(after)

    def loss():
        return float(metrics[0]["loss_sum"] / metrics[0]["tokens"])

    return Step(run, loss, memory._asdict())


def torch_step(model: ModelConfig, rows: int, length: int, compiled: bool = False) -> Step:
    """The same step in torch: `nn.Transformer`, dropout in the same places, `model.dtype`."""
    import torch
    from torch import nn

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Its own final norms, and dropout on attention weights and inside the feed-forward layers,
    # which the paper does not have, are taken out where the module allows it.
    body = nn.Transformer(
        model.d_model, model.num_heads, model.num_layers, model.num_layers, model.d_ff,
        model.dropout, batch_first=True,
    )  # fmt: skip
    body.encoder.norm = body.decoder.norm = None
    nothing: Any = nn.Identity()
    for module in body.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            module.dropout = nothing

    class Translation(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.table = body, nn.Embedding(model.vocab_size, model.d_model)
            nn.init.normal_(self.table.weight, std=model.d_model**-0.5)
            self.drop = nn.Dropout(model.dropout)
            self.register_buffer("positions", torch.randn(length, model.d_model))
            mask = nn.Transformer.generate_square_subsequent_mask(length)
            self.register_buffer("causal", mask)

        def read(self, side):
            return self.drop(self.table(side) * model.d_model**0.5 + self.positions)

        def forward(self, source, target):
            shifted = nn.functional.pad(target, (1, -1))
            x = self.body(
                self.read(source), self.read(shifted), tgt_mask=self.causal, tgt_is_causal=True
            )
            logits = x @ self.table.weight.T
            return nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), target.flatten(), label_smoothing=0.1
            )

    network = Translation().to(device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, fused=True
    )
    forward = torch.compile(network) if compiled else network
    side = torch.as_tensor(tokens(rows, length, model.vocab_size), device=device).long()
    source, target = side, side.flip(0)
    last: list[Any] = [None]

    def run():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=model.dtype == "bfloat16"):
            last[0] = forward(source, target)
        last[0].backward()
        optimizer.step()

    return Step(run, lambda: last[0].item(), {})


def features_and_table(model: ModelConfig, rows: int, length: int) -> list[np.ndarray]:
    """Random features [rows, length, D] and table [V, D]."""
    rng = np.random.default_rng(0)
    shapes = (rows, length, model.d_model), (model.vocab_size, model.d_model)
    scale = model.d_model**-0.5
    return [rng.normal(size=shape, scale=scale).astype(np.float32) for shape in shapes]


def our_loss(model: ModelConfig, rows: int, length: int) -> Step:
    """The smoothed loss of features, with gradients of these and of the table."""
    import jax

    from transformer_jax.functional import label_smoothed_cross_entropy, sum_blocks
    from transformer_jax.models.kernels import kernels_of, logits_block

    targets = jax.device_put(tokens(rows, length, model.vocab_size))
    block = logits_block(model, None, targets.size)

    def loss(features, table):
        def sums(features, targets):
            logits = kernels_of(model).unembed(features, table)
            return label_smoothed_cross_entropy(logits, targets)

        total, count = sum_blocks(sums, block, features, targets)
        return total / count

    inputs = [jax.device_put(each) for each in features_and_table(model, rows, length)]
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*inputs).compile()
    last: list[Any] = [None]

    def run():
        last[0] = compiled(*inputs)

    memory: Any = compiled.memory_analysis()
    known = {"temporary": memory.temp_size_in_bytes}
    return Step(run, lambda: float(jax.block_until_ready(last[0])[0]), known)


def torch_loss(model: ModelConfig, rows: int, length: int) -> Step:
    """The same in torch."""
    import torch

    inputs = [
        torch.tensor(each, requires_grad=True) for each in features_and_table(model, rows, length)
    ]
    targets = torch.as_tensor(tokens(rows, length, model.vocab_size)).long().flatten()
    last: list[Any] = [None]

    def run():
        for each in inputs:
            each.grad = None
        logits = (inputs[0] @ inputs[1].T).flatten(0, 1)
        last[0] = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
        last[0].backward()

    return Step(run, lambda: last[0].item(), {})
