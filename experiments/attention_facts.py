"""Facts about attention: weights by d_k, convolutions as heads, positions in states."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ledger import Cell, Table
from transformer_jax import functional

__all__ = ["heads_as_convolution", "heads_table", "position_probe", "scale_table"]

KEYS = 32


def scale_table() -> Table:
    """Entropy of the weights, and their derivative by the scores, of random queries and keys."""
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
    columns = ["d_k"]
    for how in ("scaled", "unscaled"):
        columns += [f"entropy, {how}", f"derivative by the scores, {how}"]
    title = f"Weights of {KEYS} keys of variance 1 (all equal: {math.log(KEYS):.2f} nats)"
    return Table(title, columns, rows, 3)


def heads_as_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute a causal convolution of k places as multi-head attention with k heads.

    Head j attends from t to t - (k - 1 - j) alone; its values are x W[j], as wide as the output,
    and the heads are added, as the output's projection adds them. A position before the start has
    no key, and gives zeros.

    Args:
        x: [B, T, D].
        kernel: W, [k, D, F].

    Returns:
        [B, T, F], what `functional.convolution` gives without a bias.

    >>> heads_as_convolution(jnp.array([[[1.0], [2.0]]]), jnp.array([[[10.0]], [[1.0]]]))[0, :, 0]
    Array([ 1., 12.], dtype=float32)
    """
    width, length = len(kernel), x.shape[1]
    i, j = jnp.arange(length)[:, None], jnp.arange(length)[None]
    mask = jnp.stack([j == i - (width - 1 - head) for head in range(width)])[None]
    values = jnp.einsum("bsd,hdf->bshf", x, kernel)
    scores = jnp.zeros((*values.shape[:3], 1))  # one key is allowed, so that they do not matter
    return functional.dot_product_attention(scores, scores, values, mask).sum(axis=2)


def heads_table() -> Table:
    """How well attention with k heads, and with one, computes a convolution of k places.

    One head whose weights a are the same for every input, as those by position alone are, has the
    kernel W[j] = a_j M with its map M; of inputs that are independent the variance left is that of
    W outside its best approximation of this form. Weights that depend on the input may leave less.
    """
    rng, (length, d) = np.random.default_rng(0), (24, 8)
    x = jnp.asarray(rng.normal(size=(16, length, d)), jnp.float32)
    rows: list[list[Cell]] = []
    for width in (2, 3, 5):
        kernel = rng.normal(size=(width, d, d)) / math.sqrt(width * d)
        weights = jnp.asarray(kernel, jnp.float32)
        wanted = functional.convolution(x, weights, jnp.zeros(d))
        exact = jnp.abs(heads_as_convolution(x, weights) - wanted).max()
        total = np.sum(kernel**2)
        # With equal weights the best map is the mean of the kernel's.
        equal = 1 - width * np.sum(kernel.mean(axis=0) ** 2) / total
        rows.append(
            [width, f"{float(exact):.0e}", 100 * float(equal), 100 * one_head_leaves(kernel)]
        )
    columns = [
        "k",
        "k heads: largest difference",
        "one head, equal weights: variance left, %",
        "one head, the best weights of any that are the same for every input, %",
    ]
    return Table("A random convolution of k places, computed by attention", columns, rows, 0)


def one_head_leaves(kernel: np.ndarray) -> float:
    """Compute the share of a convolution's variance that one head of fixed weights leaves.

    The best a_j M is the first term of the singular value decomposition of W as a matrix [k, D F]
    (Eckart & Young 1936).

    Args:
        kernel: W, [k, D, F].

    >>> round(one_head_leaves(np.array([[[3.0, 0.0]], [[0.0, 4.0]]])), 3)  # 9 of 25 are left
    0.36
    """
    singular = np.linalg.svd(kernel.reshape(len(kernel), -1), compute_uv=False)
    return float(1 - singular[0] ** 2 / np.sum(singular**2))


def position_probe(run_dir: Path, sentences: int, is_trained: bool = True) -> list[float]:
    """Predict positions with a linear map of the encoder's states.

    The map is the ridge regression of the position on the states of half of the sentences; the
    other half is predicted.

    Args:
        run_dir: A run on the embedded corpus.
        sentences: How many of its validation text.
        is_trained: Whether its parameters are those after training, or those that its seed began
            with.

    Returns:
        For the embedding and each layer, the share of the positions' variance, in per cent, that is
        explained (R^2); below 0 where the mean would be a better prediction.
    """
    from transformer_jax.data.vocabulary import EOS_ID, PAD_ID
    from transformer_jax.models.embedding import Embedding
    from transformer_jax.models.families import build_model
    from transformer_jax.models.layers import EncoderLayer
    from transformer_jax.run.folder import Run
    from transformer_jax.run.splits import dataset_splits
    from transformer_jax.run.variables import load_variables

    run = Run.open(run_dir)
    lines = [source for source, _ in list(dataset_splits(run_dir)["validation"])[:sentences]]
    ids = [[*run.vocabularies.source.encode(line), EOS_ID] for line in lines]
    longest = max(map(len, ids))
    source = jnp.array([row + [PAD_ID] * (longest - len(row)) for row in ids])

    def is_kept(module, method):
        is_embedded = isinstance(module, Embedding) and method == "source"
        return is_embedded or (isinstance(module, EncoderLayer) and method == "__call__")

    if is_trained:
        params = load_variables(run, "last")[0]["params"]
    else:
        params = jax.jit(run.step_functions().init)(
            functional.seed_key(run.config.train.seed)
        ).params
    _, kept = build_model(run.config.model).apply(
        {"params": params}, source, method="encode", capture_intermediates=is_kept,
        mutable=["intermediates"],
    )  # fmt: skip
    states = [leaf for _, leaf in sorted(_named_leaves(kept["intermediates"]), key=lambda x: x[0])]
    is_token = np.asarray(source != PAD_ID)
    is_known = is_token & (np.arange(len(ids)) % 2 == 0)[:, None]
    is_held_out = is_token & ~is_known
    place = np.broadcast_to(np.arange(longest), is_token.shape)
    shares = []
    for state in states:
        x = np.asarray(state, np.float64)
        x = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=-1)
        known, held_out = x[is_known], x[is_held_out]
        ridge = known.T @ known + 1e-3 * np.eye(known.shape[1])
        predicted = held_out @ np.linalg.solve(ridge, known.T @ place[is_known])
        error = np.mean((predicted - place[is_held_out]) ** 2)
        shares.append(100 * float(1 - error / np.var(place[is_held_out])))
    return shares


def _named_leaves(tree):
    """(layer, array) of what was kept; the embedding is layer -1."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = [str(getattr(key, "key", "")) for key in path]
        layers = [int(name.removeprefix("encoder_")) for name in names if "encoder_" in name]
        yield (layers[0] if layers else -1), leaf
