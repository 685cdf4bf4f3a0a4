"""Constituency parsing: sub-words of a sentence to the symbols of its tree (section 6.3)."""

import logging
from collections.abc import Sequence
from typing import ClassVar

from transformer_jax.config.languages import check_direction
from transformer_jax.data.pairing import Pairing
from transformer_jax.data.preparation import load_splits, mix_text
from transformer_jax.data.text import ParallelText
from transformer_jax.data.vocabulary import UNK_ID
from transformer_jax.decoding.options import PARSING_SEARCH
from transformer_jax.errors import UserError
from transformer_jax.parsing.constrained import constrain_model
from transformer_jax.parsing.linearization import delinearize
from transformer_jax.parsing.scores import score_parses
from transformer_jax.parsing.treebank import PhraseTrees, Treebank
from transformer_jax.parsing.trees import Tree
from transformer_jax.parsing.windowed import window_model
from transformer_jax.tasks.task import Task

__all__ = ["ParsingTask"]

log = logging.getLogger(__name__)


class ParsingTask(Task):
    """Words of a sentence to its phrase-structure tree.

    Attributes:
        order: How a tree is written as symbols, one of `parsing.ORDERS`.
        constrained: Whether a search can write nothing but trees over the words.
    """

    best_metrics: ClassVar = {**Task.best_metrics, "f1": True}
    search = PARSING_SEARCH

    def __init__(self, order: str, constrained: bool = True):
        self.order, self.constrained = order, constrained
        self.pairing = Pairing(joint=False, target_vocabulary="whitespace", form=order)

    def texts(self, data):
        for name in ("text_normalization", "word_splitting", "source_tag", "mixed_text"):
            if (value := getattr(data, name)) not in ("none", None):
                raise UserError(
                    f"{name} {value}: a tree has the words that it is given, and other trees are "
                    f"--mixed-treebank: leave --{name.replace('_', '-')} out"
                )
        if data.direction is not None:
            check_direction(data.direction)
        train: ParallelText
        validation: ParallelText
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
        more = data.mixed_treebank
        other = None if more is None else Treebank(more, self.order)
        return mix_text(train, other, data.mixed_ratio), validation

    def split_text(self, split):
        return PhraseTrees(split, self.order)

    def check_model(self, config):
        if config.cross_attention_radius is not None and config.architecture != "transformer":
            raise UserError(
                f"cross_attention_radius {config.cross_attention_radius} has no meaning for "
                f"architecture {config.architecture}: give None"
            )

    def model(self, config, vocabularies):
        model = super().model(config, vocabularies)
        if config.cross_attention_radius is None:
            return model
        return window_model(model, vocabularies, self.order)

    def constrain(self, model, vocabularies, search):
        if not self.constrained:
            return model
        return constrain_model(model, vocabularies, self.order, search.extra_length)

    def tree(self, symbols: str, words: Sequence[str]) -> Tree | None:
        """Make the tree of written symbols; None where they are no tree over these words."""
        try:
            return delinearize(symbols.split(), words, self.order)
        except UserError:
            return None

    def score(self, metric, predictions, references, vocabulary, language):
        """F1 of symbols, of which those of the references say how many words there are; a tree with
        a symbol that the vocabulary lacks is left out."""
        gold, parses = [], []
        unknown = vocabulary.tokens([UNK_ID])[0]
        for prediction, reference in zip(predictions, references):
            symbols = reference.split()
            if unknown in symbols:
                continue
            # All but the two symbols of each constituent.
            count = len(symbols) - 2 * sum(len(s) > 1 and s.startswith("/") for s in symbols)
            words = [str(number) for number in range(count)]
            gold.append(delinearize(symbols, words, self.order))
            parses.append(self.tree(prediction, words))
        if len(gold) < len(references):
            log.warning(
                "%d of %d trees to evaluate on have symbols that those to train on lack: they are "
                "left out of F1", len(references) - len(gold), len(references),
            )  # fmt: skip
        return score_parses(gold, parses)[0].value
