"""A small treebank, and a job that trains on it."""

import random
from dataclasses import replace

from tests.small_job import configuration
from transformer_jax.parsing import Tree

WORDS = {
    "DT": ["the", "a"], "NN": ["dog", "cat", "child", "house"], "VB": ["sees", "finds"],
    "IN": ["near", "behind"],
}  # fmt: skip


def draw_tree(rng):
    def word(tag):
        return Tree(tag, word=rng.choice(WORDS[tag]))

    def noun_phrase(depth=0):
        simple = Tree("NP", (word("DT"), word("NN")))
        if depth < 2 and rng.random() < 0.3:
            return Tree("NP", (simple, Tree("PP", (word("IN"), noun_phrase(depth + 1)))))
        return simple

    verb = Tree("VP", (word("VB"), noun_phrase()))
    end = (Tree(".", word="."),) * (rng.random() < 0.5)
    return Tree("TOP", (Tree("S", (noun_phrase(), verb, *end)),))


def write_treebank(path, count, seed):
    rng = random.Random(seed)
    trees = [draw_tree(rng) for _ in range(count)]
    path.write_text("".join(f"{tree}\n" for tree in trees))
    return trees


def parsing_configuration(folder, task="parsing", **train_options):
    """A job on the toy treebank."""
    write_treebank(folder / "train.trees", 300, 0)
    write_treebank(folder / "validation.trees", 30, 1)
    config = configuration(folder, best_metric="f1", **train_options)
    data = replace(
        config.data,
        task=task,
        train=None,
        validation=None,
        treebank=(str(folder / "train.trees"), str(folder / "validation.trees")),
        vocabulary="bpe",
        max_length=48,
        batch_tokens=256,
    )
    model = replace(
        config.model, vocab_size=320, target_vocab_size=50, tied_embeddings="decoder", d_model=32
    )
    return replace(config, data=data, model=model)
