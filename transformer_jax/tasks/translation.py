"""Translation: one vocabulary for both languages, BLEU and chrF of what a search writes."""

import dataclasses
import logging
from typing import ClassVar

from transformer_jax.config.languages import SPACELESS, short_code
from transformer_jax.data.segmentation import is_spaceless
from transformer_jax.errors import UserError
from transformer_jax.evaluation.bleu import default_score, missing_tokenizer, score_all
from transformer_jax.tasks.task import Task

__all__ = ["TranslationTask"]

log = logging.getLogger(__name__)


class TranslationTask(Task):
    """Text of one language to text of another."""

    best_metrics: ClassVar = {**Task.best_metrics, "bleu": True, "chrf": True}

    def with_metric(self, config):
        """With chrF for BLEU where the target language has no words that BLEU could count."""
        config = super().with_metric(config)
        language = config.data.languages[1]
        if config.train.best_metric != "bleu" or config.data.vocabulary == "whitespace":
            return config
        if missing := missing_tokenizer(language):
            raise UserError(f"--best-metric bleu: {missing}; or choose chrf")
        if language is None or short_code(language) not in SPACELESS:
            return config
        log.info("sacreBLEU cannot split %s into words: best_metric is chrf instead", language)
        return dataclasses.replace(
            config, train=dataclasses.replace(config.train, best_metric="chrf")
        )

    def check_references(self, config, references):
        unknown = config.data.languages[1] is None and config.data.vocabulary != "whitespace"
        if config.train.best_metric == "bleu" and unknown and any(map(is_spaceless, references)):
            log.warning(
                "the validation text has scripts without spaces and its language is not known: "
                "give --direction, or --best-metric chrf, for a meaningful best checkpoint"
            )

    def scores(self, predictions, references, vocabulary, language):
        """Text of a whitespace vocabulary is tokenised already and gets the BLEU of tokens; other
        text gets every score of raw text."""
        if vocabulary.is_tokenized:
            return [default_score("BLEU", vocabulary, predictions, references, language)]
        if language is None and any(map(is_spaceless, references)):
            log.warning(
                "some references have scripts without spaces and their language is not known: "
                "give --language, such as zh, ja or th, for meaningful scores"
            )
        return score_all(predictions, references, language)

    def score(self, metric, predictions, references, vocabulary, language):
        name = {"bleu": "BLEU", "chrf": "chrF"}[metric]
        return default_score(name, vocabulary, predictions, references, language).value
