"""Scores of a model in training on the prepared validation text."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from flax import linen as nn

from transformer_jax.config import ModelConfig, RunConfig
from transformer_jax.data.batching import Batch, Batches
from transformer_jax.data.corpus import Corpus, TokenArray
from transformer_jax.data.pairing import Pairing
from transformer_jax.data.vocabulary import Vocabularies, Vocabulary
from transformer_jax.decoding.inference import BatchDecoder, Hypothesis
from transformer_jax.decoding.options import Search
from transformer_jax.devices.layout import Layout

__all__ = ["ValidatedTask", "Validation"]


class ValidatedTask(Protocol):
    """What validation asks of a task; `tasks.Task` documents each method."""

    @property
    def pairing(self) -> Pairing: ...

    @property
    def search(self) -> Search: ...

    def evaluation(
        self, model: nn.Module, layout: Layout, block: int | None = None
    ) -> Callable[[Any, Iterable[Batch]], dict[str, float]]: ...

    def model(self, config: ModelConfig, vocabularies: Vocabularies) -> nn.Module: ...

    def decoder(
        self,
        model: nn.Module,
        variables: Any,
        vocabularies: Vocabularies,
        max_length: int,
        layout: Layout | None = None,
    ) -> BatchDecoder: ...

    def check_references(self, config: RunConfig, references: Sequence[str]) -> None: ...

    def predict(
        self, inference: BatchDecoder, sources: Sequence[Sequence[int]], search: Search
    ) -> list[list[Hypothesis]]: ...

    def write(self, vocabulary: Vocabulary, ids: Sequence[int]) -> str: ...

    def score(
        self,
        metric: str,
        predictions: Sequence[str],
        references: Sequence[str],
        vocabulary: Vocabulary,
        language: str | None,
    ) -> float: ...


class Validation:
    """A run's validation text, with its model compiled to be scored on it."""

    def __init__(self, config: RunConfig, layout: Layout, corpus: Corpus, task: ValidatedTask):
        shapes = min(8, config.data.max_batch_shapes)
        data = dataclasses.replace(config.data, max_batch_shapes=shapes)
        self._corpus, self._task = corpus, task
        pairing = task.pairing
        self._batches = Batches(corpus, data, 0, layout.local_rows, pairing.ignored)
        self._metric = config.train.best_metric
        self._search = dataclasses.replace(task.search, method="greedy", n_best=1)
        self._language = data.languages[1]
        some = itertools.islice(_sentences(corpus.target, pairing.target_ends), 20)
        texts = [corpus.vocabularies.target.decode(ids) for ids in some]
        task.check_references(config, texts)
        model = task.model(config.model, corpus.vocabularies)
        self._evaluate = task.evaluation(model, layout, config.optimizer.logits_block)
        self.inference = task.decoder(model, None, corpus.vocabularies, data.max_length, layout)

    def scores(self, variables: Mapping[str, Any]) -> dict[str, float]:
        """Measure what the task measures, and the metric that decides the best checkpoint."""
        return self._scored(variables, None)[0]

    def loss(self, variables: Mapping[str, Any]) -> float:
        """Measure the loss per target token."""
        return self._evaluate(variables, self._batches.one_epoch())["loss"]

    def try_out(self, variables: Mapping[str, Any]) -> str:
        """Score one batch, and predict one sentence where the metric needs it.

        What is compiled for them is used again.

        Returns:
            What was done, in words.
        """
        _, predicted = self._scored(variables, 1)
        also = " and a predicted sentence" if predicted else ""
        return f"a batch of the validation text is scored{also}"

    def _scored(
        self, variables: Mapping[str, Any], most: int | None
    ) -> tuple[dict[str, float], bool]:
        """Score at most so many batches and sentences; also whether anything was predicted."""
        found = self._evaluate(variables, itertools.islice(self._batches.one_epoch(), most))
        if predicted := self._metric not in found:
            found[self._metric] = self._predicted_score(variables, most)
        return {f"validation_{name}": value for name, value in found.items()}, predicted

    def _predicted_score(self, variables: Mapping[str, Any], most: int | None) -> float:
        self.inference.variables = variables
        task, target = self._task, self._corpus.vocabularies.target
        ends = task.pairing.source_ends, task.pairing.target_ends
        sides = self._corpus.source, self._corpus.target
        sources, references = (
            list(itertools.islice(_sentences(side, end), most)) for side, end in zip(sides, ends)
        )
        found = task.predict(self.inference, sources, self._search)
        # Parameters that are not finite predict nothing.
        predictions = [task.write(target, best[0].ids) if best else "" for best in found]
        texts = [task.write(target, ids) for ids in references]
        return task.score(self._metric, predictions, texts, target, self._language)


def _sentences(side: TokenArray, ends: bool) -> Iterator[list[int]]:
    """Yield the token ids of each sentence, without the EOS that it `ends` with."""
    start = 0
    for end in side.ends:
        yield side.tokens[start : end - 1 if ends else end].tolist()
        start = end
