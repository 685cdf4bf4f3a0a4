"""Facts about attention: weights by d_k, convolutions as heads, positions in states."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ledger import Cell, Table
from transformer_jax import functional

__all__ = ["channels_table", "heads_as_convolution", "position_probe", "scale_table"]

KEYS = 32


def scale_table() -> Table:
    """Entropy of the weights and size of their gradient, of random queries and keys by d_k."""
    rows: list[list[Cell]] = []
    for d_k in (4, 16, 64, 256, 1024):
        query, key = (
            jax.random.normal(jax.random.key(i), (1, n, 1, d_k)) for i, n in enumerate((512, KEYS))
        )
        row: list[Cell] = [d_k]
        for scale in (None, 1.0):
            weights = functional.attention_weights(query, key, scale=scale)[0, 0]
            entropy = -jnp.sum(jnp.where(weights > 0, weights * jnp.log(weights), 0), axis=-1)
            # Of weight i by score j: w_i (1[i = j] - w_j).
            slopes = weights[:, :, None] * (jnp.eye(KEYS)[None] - weights[:, None])
            size = jnp.sqrt(jnp.sum(slopes**2, axis=(1, 2)))
            row += [float(entropy.mean()), float(size.mean())]
        rows.append(row)
    columns = [
        "d_k",
        "entropy, scaled",
        "gradient, scaled",
        "entropy, unscaled",
        "gradient, unscaled",
    ]
    title = f"Weights of {KEYS} keys of variance 1 (all equal: {math.log(KEYS):.2f} nats)"
    return Table(title, columns, rows, 3)


def heads_as_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute a causal convolution as multi-head attention: x [B, T, D], kernel [k, D, F] -> F.

    Head j attends from t to t - (k - 1 - j) alone; its values are x W[j], and the heads are added,
    as the output's projection adds them. A position before the start has no key, and gives zeros.
    """
    width, length = len(kernel), x.shape[1]
    i, j = jnp.arange(length)[:, None], jnp.arange(length)[None]
    mask = jnp.stack([j == i - (width - 1 - head) for head in range(width)])[None]
    values = jnp.einsum("bsd,hdf->bshf", x, kernel)
    scores = jnp.zeros((*values.shape[:3], 1))  # one key is allowed, so that they do not matter
    return functional.dot_product_attention(scores, scores, values, mask).sum(axis=2)


def channels_table() -> Table:
    """How well attention with some heads computes a given convolution."""
    rng, (length, d) = np.random.default_rng(0), (24, 8)
    x = jnp.asarray(rng.normal(size=(16, length, d)), jnp.float32)
    rows: list[list[Cell]] = []
    for width in (2, 3, 5):
        kernel = jnp.asarray(rng.normal(size=(width, d, d)) / math.sqrt(width * d), jnp.float32)
        wanted = functional.convolution(x, kernel, jnp.zeros(d))
        exact = jnp.abs(heads_as_convolution(x, kernel) - wanted).max()
        # One head of averages: the best linear map of the mean over the same positions.
        window = jnp.arange(length)[:, None] - jnp.arange(length)[None]
        mean = jnp.where((window >= 0) & (window < width), 1.0 / width, 0.0)
        averaged = jnp.einsum("ts,bsd->btd", mean, x).reshape(-1, d)
        best, *_ = jnp.linalg.lstsq(averaged, wanted.reshape(-1, d))
        left = jnp.sqrt(
            jnp.mean((averaged @ best - wanted.reshape(-1, d)) ** 2) / jnp.mean(wanted**2)
        )
        rows.append([width, f"{float(exact):.0e}", float(left)])
    columns = [
        "k",
        "k heads, each at its place: largest difference",
        "one head of averages: error left",
    ]
    return Table("A convolution of k places computed by attention", columns, rows)


def position_probe(run_dir: Path, sentences: int) -> list[float]:
    """Tell positions by a linear map of the encoder's states.

    The map is the ridge regression of the position on the states of half of the sentences; the
    other half is told.

    Args:
        run_dir: A run on the embedded corpus.
        sentences: How many of its validation text.

    Returns:
        For the embedding and each layer, the share of the positions' variance, in per cent, that is
        told (R^2); below 0 where the mean would tell more.
    """
    from transformer_jax.models.embedding import Embedding
    from transformer_jax.models.layers import EncoderLayer
    from transformer_jax.run.splits import dataset_splits
    from transformer_jax.translator import Translator

    translator = Translator.load(run_dir, "last")
    lines = [source for source, _ in list(dataset_splits(run_dir)["validation"])[:sentences]]
    ids = [[*translator.vocabulary.encode(line), 1] for line in lines]
    longest = max(map(len, ids))
    source = jnp.array([row + [0] * (longest - len(row)) for row in ids])

    def is_kept(module, method):
        is_embedded = isinstance(module, Embedding) and method == "source"
        return is_embedded or (isinstance(module, EncoderLayer) and method == "__call__")

    variables = {"params": translator.params}
    _, kept = translator.model.apply(
        variables, source, method="encode", capture_intermediates=is_kept, mutable=["intermediates"]
    )
    states = [leaf for _, leaf in sorted(_named_leaves(kept["intermediates"]))]
    is_token = np.asarray(source != 0)
    is_known = is_token & (np.arange(len(ids)) % 2 == 0)[:, None]
    is_asked = is_token & ~is_known
    place = np.broadcast_to(np.arange(longest), is_token.shape)
    shares = []
    for state in states:
        x = np.asarray(state, np.float64)
        x = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=-1)
        known, asked = x[is_known], x[is_asked]
        ridge = known.T @ known + 1e-3 * np.eye(known.shape[1])
        told = asked @ np.linalg.solve(ridge, known.T @ place[is_known])
        error = np.mean((told - place[is_asked]) ** 2)
        shares.append(100 * float(1 - error / np.var(place[is_asked])))
    return shares


def _named_leaves(tree):
    """(name, array) of what was kept; the embedding comes first."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = [str(getattr(key, "key", "")) for key in path]
        layer = next((name for name in names if name.startswith("encoder_")), "")
        yield layer, leaf
