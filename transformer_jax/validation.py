"""What a model in training scores on the prepared validation text."""

import dataclasses
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer_jax.config import RunConfig
from transformer_jax.data.batching import Batches
from transformer_jax.data.corpus import Corpus, Side
from transformer_jax.data.segmentation import is_spaceless
from transformer_jax.decoding.inference import BATCH_TOKENS, Inference
from transformer_jax.evaluation.bleu import suited_score
from transformer_jax.evaluation.evaluate import make_evaluation
from transformer_jax.models.transformer import Transformer
from transformer_jax.parallel import Layout
from transformer_jax.search import Search
from transformer_jax.training.state import TrainState

__all__ = ["Validation"]

log = logging.getLogger(__name__)

# TrainConfig.best_metric -> what scores call it.
_SCORES = {"bleu": "BLEU", "chrf": "chrF"}


class Validation:
    """The validation text of a run, where it has one, and its model compiled to be scored."""

    def __init__(self, config: RunConfig, layout: Layout, corpus: Corpus):
        data = dataclasses.replace(config.data, num_shapes=min(8, config.data.num_shapes))
        self._corpus = corpus
        self._batches = Batches(corpus, data, seed=0, share=layout.share)
        self._metric = config.train.best_metric
        self._language = data.languages[1]
        texts = map(corpus.vocabulary.decode, itertools.islice(_sentences(corpus.target), 20))
        unknown = self._language is None and data.vocabulary != "whitespace"
        if self._metric == "bleu" and unknown and any(map(is_spaceless, texts)):
            log.warning(
                "the validation text has scripts without spaces and its language is not known: "
                "give --direction, or --best-metric chrf, for a best checkpoint with a meaning"
            )
        model = Transformer(config.model)
        self._evaluate = make_evaluation(model, layout)
        self.inference = Inference(model, None, max(BATCH_TOKENS, data.max_length), layout)

    @classmethod
    def open(cls, config: RunConfig, layout: Layout, folder: Path) -> "Validation | None":
        """None where no text was prepared in `folder`."""
        return cls(config, layout, Corpus.open(folder)) if folder.is_dir() else None

    def scores(self, state: TrainState) -> dict[str, float]:
        """validation_loss, _perplexity, _accuracy, and the metric that decides the best."""
        return self._scored(state, None)

    def rehearse(self, state: TrainState) -> str:
        """The same of one batch and one sentence; what was done in words.

        What is compiled for them is used again.
        """
        self._scored(state, 1)
        decoded = "" if self._metric == "loss" else " and a decoded sentence"
        return f"a batch of the validation text is scored{decoded}"

    def _scored(self, state: TrainState, most: int | None) -> dict[str, float]:
        params = state.evaluation_params
        found = self._evaluate(params, itertools.islice(self._batches.once(), most))
        if self._metric != "loss":
            found[self._metric] = self._greedy_score(params, most)
        return {f"validation_{name}": value for name, value in found.items()}

    def _greedy_score(self, params: Any, most: int | None) -> float:
        self.inference.params = params
        vocabulary = self._corpus.vocabulary
        sources, references = (
            list(itertools.islice(_sentences(side), most))
            for side in (self._corpus.source, self._corpus.target)
        )
        found = self.inference.translate(sources, Search(method="greedy"))
        # Parameters that are not finite translate to nothing.
        hypotheses = [vocabulary.decode(best[0].ids) if best else "" for best in found]
        texts = hypotheses, [vocabulary.decode(ids) for ids in references]
        return suited_score(_SCORES[self._metric], vocabulary, *texts, self._language).value


def _sentences(side: Side) -> Iterator[list[int]]:
    start = 0
    for end in side.ends:
        yield side.tokens[start : end - 1].tolist()
        start = end
