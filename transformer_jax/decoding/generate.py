"""Any search with any model that decodes step by step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.config import ModelConfig
from transformer_jax.data.vocabulary import BOS_ID, EOS_ID, PAD_ID
from transformer_jax.decoding.beam import BeamResult, beam_program
from transformer_jax.decoding.greedy import choose_likeliest
from transformer_jax.decoding.options import Search
from transformer_jax.decoding.program import SearchProgram
from transformer_jax.decoding.rows import rows_program
from transformer_jax.decoding.sampling import make_sampler
from transformer_jax.decoding.step import exclude_tokens, joined, make_search_step, search_step
from transformer_jax.functional.keys import seed_key
from transformer_jax.models.families import family_of

__all__ = ["generate", "make_program"]


@functools.partial(jax.jit, static_argnames=("model", "search", "start_id"))
def generate(
    model: nn.Module,
    params: Any,
    source: jax.Array,
    search: Search = Search(),
    *,
    collections: dict[str, Any] | None = None,
    limits: jax.Array | None = None,
    sample_ids: jax.Array | None = None,
    start_id: int | None = None,
) -> BeamResult:
    """Find the n_best targets of each source with any search; compiled for each S and search.

    There is room for every hypothesis of every step from the first one on. With wide beams or many
    sentences of different lengths `Translator` and `decoding.inference.BatchDecoder` are faster.

    PAD and BOS are never written. Greedy search and samples have their log-probability as score;
    samples come in the order in which they are drawn, a beam best first.

    Args:
        model: A Flax module with `init_cache`, `decode_step` and `project` (`models.families` says
            their shapes).
        params: Its parameters.
        source: Token ids [B, S], PAD = 0.
        search: The search and its options.
        collections: What else the model's variables hold.
        limits: Most tokens of each target [B], EOS included; by default `search.extra_length` more
            than its source has. No target is longer than S + extra_length, nor than the model's
            family can read.
        sample_ids: [B, 2], numbers of each sentence and of its part by which its samples are drawn;
            by default its index in the batch, and 0.
        start_id: What the target begins with; by default `model.config.start_id`, or 0 for a model
            without a config.

    Returns:
        The hypotheses of each sentence.

    >>> from transformer_jax import Transformer, presets
    >>> model, source = Transformer(presets.tiny(vocab_size=50)), jnp.array([[7, 9, 1]])
    >>> params = jax.jit(model.init)(jax.random.key(0), source, source)["params"]
    >>> generate(model, params, source, Search(beam_size=2, extra_length=4)).tokens.shape
    (1, 1, 7)
    """
    max_length = source.shape[1] + search.extra_length
    if limits is None:
        limits = jnp.sum(source != PAD_ID, axis=1) + search.extra_length
    if sample_ids is None:
        sample_ids = jnp.stack([jnp.arange(source.shape[0]), jnp.zeros_like(limits)], axis=1)
    variables = {"params": params, **(collections or {})}
    _, cache = make_search_step(model, variables, source, search.rows, max_length)
    program = make_program(
        model, variables, search, cache, limits, sample_ids, max_length, start_id
    )
    return program.run(cache)


def make_program(
    model: nn.Module,
    variables: dict[str, Any],
    search: Search,
    cache: Any,
    limits: jax.Array,
    sample_ids: jax.Array,
    max_length: int,
    start_id: int | None = None,
) -> SearchProgram:
    """Make the search of `generate` with a model, in its parts.

    Args:
        model: As in `generate`.
        variables: Its parameters and collections.
        search: The search and its options.
        cache: What the model's `init_cache` gives, or its shapes.
        limits: Most tokens of each target [B].
        sample_ids: As in `generate`.
        max_length: Most tokens of any target.
        start_id: As in `generate`.

    Returns:
        The search, whose result is a BeamResult.
    """
    step, project = search_step(model, variables)
    config = getattr(model, "config", None)
    if isinstance(config, ModelConfig):
        start_id = config.start_id if start_id is None else start_id
        limits = jnp.minimum(limits, family_of(config).max_length(config) or max_length)
        vocabulary = config.target_size
    else:
        first = jax.ShapeDtypeStruct((limits.shape[0] * search.rows,), jnp.int32)
        logits = jax.eval_shape(
            lambda cache, tokens: project(step(cache, tokens, None)[1]), cache, first
        )
        vocabulary = logits.shape[1]
    # Neither is ever a target.
    allowed: Any = exclude_tokens((PAD_ID, BOS_ID), vocabulary)
    if hasattr(model, "allowed"):
        allowed = functools.partial(model.apply, variables, method="allowed")
    common: dict[str, Any] = {
        "max_length": max_length,
        "start_id": start_id or 0,
        "eos_id": EOS_ID,
        "allowed": allowed,
    }
    if search.method == "beam":
        return beam_program(
            step,
            project=project,
            limits=limits,
            beam_size=search.beam_size,
            n_best=search.n_best,
            length_penalty=search.length_penalty,
            alpha=search.alpha,
            eos_rule=search.eos_rule,
            **common,
        )
    if search.method == "greedy":
        found = rows_program(joined(step, project), choose_likeliest, limits=limits, **common)
    else:
        rng = seed_key(search.seed)
        copies = sample_ids[:, 1:] * search.rows + jnp.arange(search.rows)[None]
        copies, numbers = copies.reshape(-1), jnp.repeat(sample_ids[:, 0], search.rows)
        fold = jax.vmap(lambda n, c: jax.random.fold_in(jax.random.fold_in(rng, n), c))
        choose = make_sampler(fold(numbers, copies), search.temperature, search.top_k, search.top_p)
        limits = jnp.repeat(limits, search.rows)
        found = rows_program(joined(step, project), choose, limits=limits, **common)

    def result(state):
        written = found.result(state)
        shape = (written.lengths.shape[0] // search.rows, search.rows)
        total = written.log_probs.sum(axis=1).reshape(shape)
        tokens = written.tokens.reshape(*shape, -1)
        return BeamResult(tokens, written.lengths.reshape(shape), total, total)

    return found._replace(result=result)
