"""Models with random parameters, of every kind that foreign formats can express."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax import ModelConfig, Translator
from transformer_jax.data.grammar.corpus import examples
from transformer_jax.data.vocabulary import SentencePieceVocabulary, Vocabularies
from transformer_jax.models.families import build_model
from transformer_jax.tasks import Task

LINES = [each.english for each in examples("train", 30)]
# What differs from a small model of the paper.
CONFIGS = {
    "paper": {},
    "pre-norm, t2t": {"norm_placement": "pre", "position_encoding": "t2t"},
    "decoder tied, swish, depths, bias, bos": {
        "tied_embeddings": "decoder", "activation": "swish", "decoder_layers": 1,
        "output_bias": True, "start_id": 3, "position_encoding": "concatenated",
    },
    "none tied, gelu, learned": {
        "tied_embeddings": "none", "activation": "gelu", "position_encoding": "learned",
        "max_positions": 128, "norm_placement": "pre",
    },
    "two vocabularies, first position": {
        "tied_embeddings": "decoder", "target_vocab_size": 340, "first_position": 2,
        "scale_embeddings": False, "position_encoding": "t2t",
    },
}  # fmt: skip


@functools.cache
def vocabulary_of(language, size):
    lines = (getattr(each, language) for each in examples("train", 200))
    return SentencePieceVocabulary.train(lines, size, "bpe")


def make_translator(**options):
    """A small model with random parameters, of every shape that is asked for."""
    target = options.get("target_vocab_size")
    source = vocabulary_of("english", 330)
    of_target = source if target is None else vocabulary_of("german", target)
    config = ModelConfig(
        vocab_size=len(source), d_model=16, d_ff=24, num_heads=2, num_layers=2, **options
    )
    shapes = Task().step_functions(build_model(config)).shapes().params
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32), shapes
    )
    vocabularies = Vocabularies(source, of_target)
    return Translator(build_model(config), params, vocabularies, max_length=128)


def check_equal_models(translator, found):
    """What was written and read again: the same configuration, parameters and ids, bit for bit."""
    config = translator.model.config
    for name, value in vars(found.config).items():
        if name not in (
            "num_layers",
            "encoder_layers",
            "decoder_layers",
            "max_positions",
            "dropout",
            "kernels",
        ):
            assert value == getattr(config, name), name
    assert found.config.encoder_depth == config.encoder_depth
    assert found.config.decoder_depth == config.decoder_depth
    assert jax.tree.structure(found.params) == jax.tree.structure(translator.params)
    jax.tree.map(np.testing.assert_array_equal, found.params, translator.params)
    for mine, theirs in zip(translator.vocabularies, found.vocabularies):
        for line in LINES:
            assert mine.encode(line) == theirs.encode(line)
            assert mine.decode(mine.encode(line)).strip() == theirs.decode(mine.encode(line))
