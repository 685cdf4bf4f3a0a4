"""Constituency parsing: sub-words of a sentence to the symbols of its tree (section 6.3)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from transformer_jax.data.pairing import Pairing
from transformer_jax.data.preparation import load_splits, mix_text
from transformer_jax.decoding.options import PARSING_SEARCH
from transformer_jax.errors import UserError
from transformer_jax.parsing.constrained import constrain_model
from transformer_jax.parsing.linearization import delinearize
from transformer_jax.parsing.scores import score_parses
from transformer_jax.parsing.treebank import PhraseTrees, Treebank
from transformer_jax.parsing.trees import Tree
from transformer_jax.tasks.task import Task

__all__ = ["ParsingTask"]


class ParsingTask(Task):
    """Words of a sentence to its phrase-structure tree.

    Attributes:
        order: How a tree is written as symbols, one of `parsing.ORDERS`.
        constrained: Whether a search can write nothing but trees over the words.
    """

    pairing = Pairing(joint=False, target_vocabulary="whitespace")
    best_metrics: ClassVar = {**Task.best_metrics, "f1": True}
    search = PARSING_SEARCH

    def __init__(self, order: str, constrained: bool = True):
        self.order, self.constrained = order, constrained

    def texts(self, data):
        for name in ("text_normalization", "word_splitting", "source_tag"):
            if (value := getattr(data, name)) not in ("none", None):
                raise UserError(
                    f"{name} {value}: a tree has the words that it is given, as they are: leave "
                    f"--{name.replace('_', '-')} out"
                )
        if data.dataset is not None and data.dataset.partition("/")[0] == "grammar":
            splits = load_splits(data)
            train, validation = (self.split_text(splits[s]) for s in ("train", "validation"))
        elif data.treebank is not None:
            train, validation = (Treebank(path, self.order) for path in data.treebank)
        else:
            raise UserError(
                f"task {data.task} needs trees: give --treebank TRAIN VALIDATION, or --dataset "
                "grammar for the phrases of the embedded corpus"
            )
        other = data.mixed_treebank and Treebank(data.mixed_treebank, self.order)
        return mix_text(train, other or None, data.mixed_ratio), validation

    def split_text(self, split):
        return PhraseTrees(split, self.order)

    def constrain(self, model, vocabularies):
        if not self.constrained:
            return model
        return constrain_model(model, vocabularies, self.order, self.search.extra_length)

    def predict(self, inference, sources, search, numbers=None, parts=None):
        # A tree has more symbols than the limits of translations allow.
        search = replace(search, extra_length=max(search.extra_length, self.search.extra_length))
        return super().predict(inference, sources, search, numbers, parts)

    def tree(self, symbols: str, words: Sequence[str]) -> Tree | None:
        """Make the tree of written symbols; None where they are no tree over these words."""
        try:
            return delinearize(symbols.split(), words, self.order)
        except UserError:
            return None

    def scores(self, predictions, references, vocabulary, language):
        """Score symbols, of which those of the references say how many words there are."""
        gold, parses = [], []
        for prediction, reference in zip(predictions, references):
            symbols = reference.split()
            # All but the two symbols of each constituent.
            count = len(symbols) - 2 * sum(len(s) > 1 and s.startswith("/") for s in symbols)
            words = [str(number) for number in range(count)]
            gold.append(delinearize(symbols, words, self.order))
            parses.append(self.tree(prediction, words))
        return score_parses(gold, parses)

    def score(self, metric, predictions, references, vocabulary, language):
        return self.scores(predictions, references, vocabulary, language)[0].value
