"""The paper in NumPy loops and float64, written from its equations and from nothing of ours."""

import math

import numpy as np


def softmax(scores):
    shifted = np.exp(scores - np.max(scores))
    return shifted / shifted.sum()


def attention(query, key, value, mask=None, scale=None):
    """[T, K], [S, K], [S, Dv], mask [T, S] -> output [T, Dv], weights [T, S]; one head."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    weights = np.zeros((len(query), len(key)))
    for t in range(len(query)):
        allowed = [s for s in range(len(key)) if mask is None or mask[t, s]]
        if allowed:
            weights[t, allowed] = softmax(
                np.array([np.dot(query[t], key[s]) * scale for s in allowed])
            )
    return weights @ value, weights


def additive_weights(query, key, vector, mask=None):
    weights = np.zeros((len(query), len(key)))
    for t in range(len(query)):
        allowed = [s for s in range(len(key)) if mask is None or mask[t, s]]
        if allowed:
            scores = [np.dot(vector, np.tanh(query[t] + key[s])) for s in allowed]
            weights[t, allowed] = softmax(np.array(scores))
    return weights


def layer_norm(x, gain, bias, epsilon=1e-6):
    rows = [(row - row.mean()) / math.sqrt(row.var() + epsilon) for row in x]
    return np.array(rows) * gain + bias


def positions(length, d_model, first=0):
    table = np.zeros((length, d_model))
    for row in range(length):
        for i in range(d_model // 2):
            angle = (row + first) / 10000 ** (2 * i / d_model)
            table[row, 2 * i], table[row, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table


ACTIVATIONS = {
    "relu": lambda x: max(0.0, x),
    "swish": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
}


def smoothed_loss(logits, targets, smoothing):
    """Cross-entropy with 1 - e on the target and e / (V - 1) elsewhere, summed over non-PAD."""
    total, count = 0.0, 0
    for row, target in zip(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)):
        if target == 0:
            continue
        wanted = np.full(len(row), smoothing / (len(row) - 1))
        wanted[target] = 1 - smoothing
        log_probs = row - row.max() - math.log(np.exp(row - row.max()).sum())
        total -= float(wanted @ log_probs)
        count += 1
    return total, count


def transformer(params, config, source, target):
    """Logits [T, V] for one sentence pair without padding, post-norm, everything tied."""
    heads, table = config.num_heads, params["embedding"]
    scale = math.sqrt(config.d_model) if config.scale_embeddings else 1.0
    kept = 1.0 if config.residual_connections else 0.0

    def embed(tokens):
        rows = [table[i] * scale if i else table[0] * 0 for i in tokens]
        places = positions(len(tokens), config.d_model, config.first_position)
        if config.position_encoding == "index":
            places = np.arange(len(tokens))[:, None] * np.eye(1, config.d_model)
        return np.array(rows) + places

    def project(x, p):
        return x @ p["kernel"] + p["bias"]

    def multi_head(x, memory, p, mask):
        q, k, v = (project(y, p[n]) for n, y in (("query", x), ("key", memory), ("value", memory)))
        parts = [np.split(part, heads, axis=-1) for part in (q, k, v)]
        joined = np.concatenate([attention(*head, mask)[0] for head in zip(*parts)], axis=-1)
        return project(joined, p["output"])

    def norm(x, p):
        return layer_norm(x, p["gain"], p["bias"], config.norm_epsilon)

    def feed_forward(x, p):
        hidden = np.vectorize(ACTIVATIONS[config.activation])(x @ p["kernel_in"] + p["bias_in"])
        return hidden @ p["kernel_out"] + p["bias_out"]

    x = embed(source)
    for n in range(config.encoder_layers or config.num_layers):
        p = params[f"encoder_{n}"]
        x = norm(kept * x + multi_head(x, x, p["self_attention"], None), p["self_attention_norm"])
        x = norm(kept * x + feed_forward(x, p["feed_forward"]), p["feed_forward_norm"])
    memory, x = x, embed([config.start_id, *target[:-1]])
    causal = np.tril(np.ones((len(target), len(target)), bool))
    for n in range(config.decoder_layers or config.num_layers):
        p = params[f"decoder_{n}"]
        x = norm(kept * x + multi_head(x, x, p["self_attention"], causal), p["self_attention_norm"])
        x = norm(
            kept * x + multi_head(x, memory, p["cross_attention"], None), p["cross_attention_norm"]
        )
        x = norm(kept * x + feed_forward(x, p["feed_forward"]), p["feed_forward_norm"])
    return x @ table.T + (params["output_bias"] if config.output_bias else 0.0)


def adam(params, gradients, rates, beta1=0.9, beta2=0.98, epsilon=1e-9):
    """Kingma & Ba's algorithm 1 over a list of gradients, one rate a step."""
    m, v = np.zeros_like(params), np.zeros_like(params)
    for t, (g, rate) in enumerate(zip(gradients, rates), 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        params = params - rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
    return params


def convolution(x, kernel, bias, dilation, causal):
    """x [T, D], kernel [k, D, F] -> [T, F]; zeros beyond the ends."""
    width, length = len(kernel), len(x)
    after = 0 if causal else (width - 1) * dilation - (width - 1) * dilation // 2
    out = np.tile(bias.astype(float), (length, 1))
    for t in range(length):
        for j in range(width):
            s = t + after - (width - 1 - j) * dilation
            if 0 <= s < length:
                out[t] += x[s] @ kernel[j]
    return out
