"""Names of the arrays of fairseq's layers, which Hugging Face took over."""

from collections.abc import Mapping

from transformer_jax.weights.correspondence import Names

__all__ = ["torch_names"]


def torch_names(prefix: str, tables: Mapping[str, str], output_bias: str) -> Names:
    """Name the arrays as the layers of fairseq do, which Hugging Face took over.

    Args:
        prefix: What all names of layers begin with.
        tables: Names of the tables, as in `Names`.
        output_bias: Name of what is added to the logits.
    """
    attention = {
        f"{ours}/{mine}": f"{theirs}.{projection}.{{}}"
        for ours, theirs in (("self_attention", "self_attn"), ("cross_attention", "encoder_attn"))
        for mine, projection in (
            ("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "out_proj")
        )
    }  # fmt: skip
    return Names(
        layer=prefix + "{side}.layers.{number}.",
        modules={
            **attention,
            "self_attention_norm": "self_attn_layer_norm.{}",
            "cross_attention_norm": "encoder_attn_layer_norm.{}",
            "feed_forward/in": "fc1.{}",
            "feed_forward/out": "fc2.{}",
            "feed_forward_norm": "final_layer_norm.{}",
        },
        top=prefix + "{side}.layer_norm.{}",
        linear={"kernel": "weight", "bias": "bias"},
        norm={"gain": "weight", "bias": "bias"},
        tables=tables,
        output_bias=output_bias,
    )
