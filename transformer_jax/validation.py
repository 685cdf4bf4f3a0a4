"""What a model in training scores on the prepared validation text."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer_jax.config import RunConfig
from transformer_jax.data.batching import Batches
from transformer_jax.data.corpus import Corpus, Side
from transformer_jax.decoding.inference import BATCH_TOKENS, Inference
from transformer_jax.models.families import build_model
from transformer_jax.parallel import Layout
from transformer_jax.search import Search
from transformer_jax.tasks import task_of
from transformer_jax.training.state import TrainState

__all__ = ["Validation"]


class Validation:
    """The validation text of a run, where it has one, and its model compiled to be scored."""

    def __init__(self, config: RunConfig, layout: Layout, corpus: Corpus):
        data = dataclasses.replace(config.data, num_shapes=min(8, config.data.num_shapes))
        self._corpus, self._task = corpus, task_of(data)
        pairing = self._task.pairing
        self._batches = Batches(corpus, data, 0, layout.share, pairing.ignored)
        self._metric = config.train.best_metric
        self._language = data.languages[1]
        some = itertools.islice(_sentences(corpus.target, pairing.target_ends), 20)
        texts = [corpus.vocabularies.target.decode(ids) for ids in some]
        self._task.check_references(config, texts)
        model = build_model(config.model)
        self._evaluate = self._task.evaluation(model, layout, config.optimizer.logits_block)
        batch_tokens = max(BATCH_TOKENS, data.max_length)
        self.inference = Inference(model, None, batch_tokens, layout, pairing)

    @classmethod
    def open(cls, config: RunConfig, layout: Layout, folder: Path) -> "Validation | None":
        """None where no text was prepared in `folder`."""
        return cls(config, layout, Corpus.open(folder)) if folder.is_dir() else None

    def scores(self, state: TrainState) -> dict[str, float]:
        """What the task measures, as validation_loss, and the metric that decides the best."""
        return self._scored(state, None)[0]

    def rehearse(self, state: TrainState) -> str:
        """The same of one batch and one sentence; what was done in words.

        What is compiled for them is used again.
        """
        _, predicted = self._scored(state, 1)
        also = " and a predicted sentence" if predicted else ""
        return f"a batch of the validation text is scored{also}"

    def _scored(self, state: TrainState, most: int | None) -> tuple[dict[str, float], bool]:
        """Scores, of so many batches and sentences at most, and whether anything was predicted."""
        variables = state.evaluation_variables
        found = self._evaluate(variables, itertools.islice(self._batches.once(), most))
        if predicted := self._metric not in found:
            found[self._metric] = self._predicted_score(variables, most)
        return {f"validation_{name}": value for name, value in found.items()}, predicted

    def _predicted_score(self, variables: Any, most: int | None) -> float:
        self.inference.variables = variables
        task, target = self._task, self._corpus.vocabularies.target
        ends = task.pairing.source_ends, task.pairing.target_ends
        sides = self._corpus.source, self._corpus.target
        sources, references = (
            list(itertools.islice(_sentences(side, end), most)) for side, end in zip(sides, ends)
        )
        found = task.predict(self.inference, sources, Search(method="greedy"))
        # Parameters that are not finite predict nothing.
        predictions = [task.write(target, best[0].ids) if best else "" for best in found]
        texts = [task.write(target, ids) for ids in references]
        return task.score(self._metric, predictions, texts, target, self._language)


def _sentences(side: Side, ends: bool) -> Iterator[list[int]]:
    """Token ids of each sentence, without the EOS that it `ends` with."""
    start = 0
    for end in side.ends:
        yield side.tokens[start : end - 1 if ends else end].tolist()
        start = end
