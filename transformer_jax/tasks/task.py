"""What a task says of its data, loss, scores and predictions.

A task is (source, target) -> logits aligned with the target, with a loss where the target counts.
That much is here; a subclass says what differs, and is put into `tasks.TASKS` under its name.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn

from transformer_jax.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from transformer_jax.data.batching import Batch, Corrupt
from transformer_jax.data.manifest import Texts
from transformer_jax.data.pairing import Pairing
from transformer_jax.data.preparation import read_texts
from transformer_jax.data.text import ParallelText
from transformer_jax.data.vocabulary import Vocabularies, Vocabulary
from transformer_jax.decoding.inference import BATCH_TOKENS, BatchDecoder, Hypothesis
from transformer_jax.decoding.options import Search
from transformer_jax.devices.layout import Layout
from transformer_jax.errors import UserError
from transformer_jax.evaluation.bleu import Score, exact_match
from transformer_jax.evaluation.evaluate import make_evaluation, read_target
from transformer_jax.functional.losses import label_smoothed_cross_entropy, sum_blocks
from transformer_jax.models.dimensions import boxed_init
from transformer_jax.models.families import build_model
from transformer_jax.models.kernels import logits_block
from transformer_jax.training.optimizer import MakeOptimizer, make_optimizer
from transformer_jax.training.schedule import make_schedule
from transformer_jax.training.step import Loss, StepFunctions, make_step

__all__ = ["Task"]


class Task:
    """A task that predicts a token for every position of the target, trained by cross-entropy."""

    pairing: Pairing = Pairing()
    best_metrics: ClassVar[Mapping[str, bool]] = {
        "loss": False,
        "perplexity": False,
        "accuracy": True,
    }
    """Name of each metric that may choose the best checkpoint -> whether more is better. What a
    loss returns besides its sums is logged, too, and needs no entry here."""
    corrupt: Corrupt | None = None
    """(batch, draw) -> batch, what training reads instead, in NumPy; draw(n) [B, n] are 64-bit
    numbers that depend on the seed, the sentence and the epoch alone."""

    search: ClassVar[Search] = Search()
    """The search that predictions are made with where none is asked for."""

    def texts(self, data: DataConfig) -> Texts:
        """Find the pairs of lines to train on, and those to evaluate on or None.

        Raises UserError where `data` names none that this task can read.
        """
        return read_texts(data)

    def split_text(self, split: ParallelText) -> ParallelText:
        """Make the text of this task of a split of its dataset."""
        return split

    def check_model(self, config: ModelConfig) -> None:
        """Raise UserError for a model that this task cannot have."""
        if config.cross_attention_radius is not None:
            raise UserError(
                f"cross_attention_radius {config.cross_attention_radius}: only the task parsing "
                "knows which word of the source comes next: give None"
            )

    def model(self, config: ModelConfig, vocabularies: Vocabularies) -> nn.Module:
        """Make the model that is trained and that predicts.

        Args:
            config: Its configuration.
            vocabularies: Those of source and target.

        Raises:
            UserError: This task cannot have such a model.
        """
        self.check_model(config)
        return build_model(config)

    def constrain(self, model: Any, vocabularies: Vocabularies, search: Search) -> Any:
        """Make what a search asks instead of the model, with the same variables.

        Args:
            model: The model.
            vocabularies: Those of source and target.
            search: The search.

        Returns:
            The model itself, or one with `allowed` (`models.families`).
        """
        return model

    def decoder(
        self,
        model: nn.Module,
        variables: Any,
        vocabularies: Vocabularies,
        max_length: int,
        layout: Layout | None = None,
    ) -> BatchDecoder:
        """Make what predicts with a model.

        Args:
            model: The model.
            variables: Its parameters and collections.
            vocabularies: Those of source and target.
            max_length: Most tokens of a sentence, EOS included.
            layout: Devices among which sentences are distributed; None uses one.
        """
        searched = functools.partial(self.constrain, model, vocabularies)
        most = max(BATCH_TOKENS, max_length)
        return BatchDecoder(model, variables, most, layout, self.pairing, searched)

    def loss(self, model: Any, config: OptimizerConfig) -> Loss:
        """Make the loss for `make_step`, for batches of `data.batching`.

        Args:
            model: The model.
            config: Label smoothing and the block of logits.

        Returns:
            loss_fn(params, collections, batch, rng) -> the sum of the loss, the number of targets,
            sums of further metrics by name, and the collections after the batch.
        """
        smoothing, ignored = config.label_smoothing, self.pairing.ignored

        def loss_fn(params, collections, batch, rng):
            features: Any
            features, after = model.apply(
                {"params": params, **collections},
                batch.source,
                read_target(batch.target, ignored),
                # By its sentence a row draws dropout, whatever device it lies on.
                batch.indices.astype(jnp.uint32),
                rngs={"dropout": rng},
                method="features",
                mutable=list(collections),
            )

            def sums(features, targets):
                logits: Any = model.apply({"params": params}, features, method="project")
                return label_smoothed_cross_entropy(logits, targets, smoothing, ignored)

            block = logits_block(model.config, config.logits_block, batch.target.size)
            loss, count = sum_blocks(sums, block, features, batch.target, ignored)
            return loss, count, {}, dict(after)

        return loss_fn

    def step_functions(
        self,
        model: nn.Module,
        config: OptimizerConfig = OptimizerConfig(),
        seed: int = 0,
        optimizer: MakeOptimizer = make_optimizer,
    ) -> StepFunctions:
        """Make what trains a model of a family for this task.

        Args:
            model: The model.
            config: The optimizer, the schedule and the objective.
            seed: Seed of parameters and dropout.
            optimizer: Makes the optimizer, of (config, schedule).

        >>> from transformer_jax import Transformer, presets
        >>> functions = Task().step_functions(Transformer(presets.tiny(vocab_size=50)))
        >>> functions.shapes().params["embedding"].shape
        (50, 128)
        """
        tokens = jnp.zeros((1, 1), jnp.int32)
        schedule = make_schedule(config, model.config.d_model)
        return make_step(
            boxed_init(model, tokens, tokens),
            self.loss(model, config),
            optimizer(config, schedule),
            schedule=schedule,
            ema_decay=config.ema_decay,
            seed=seed,
            frozen=config.frozen,
        )

    def evaluation(
        self, model: nn.Module, layout: Layout, block: int | None = None
    ) -> Callable[[Any, Iterable[Batch]], dict[str, float]]:
        """Make evaluate(variables, batches) -> what is measured without predicting anything.

        Args:
            model: The model.
            layout: The devices.
            block: As `OptimizerConfig.logits_block`.
        """
        return make_evaluation(model, layout, self.pairing.ignored, block)

    def check_metric(self, metric: str) -> None:
        """Raise UserError for a metric that the task does not have."""
        if metric not in self.best_metrics:
            raise UserError(
                f"best_metric {metric!r} is not one of the task's, {', '.join(self.best_metrics)}"
            )

    def with_metric(self, config: RunConfig) -> RunConfig:
        """Return `config` with a best_metric that this task has and the text allows.

        Raises UserError where there is none.
        """
        self.check_metric(config.train.best_metric)
        return config

    def check_references(self, config: RunConfig, references: Sequence[str]) -> None:
        """Warn where references of a validation text do not suit the metric.

        Args:
            config: The run.
            references: Lines of the validation text's target.
        """

    def predict(
        self,
        inference: BatchDecoder,
        sources: Sequence[Sequence[int]],
        search: Search,
        numbers: Sequence[int] | None = None,
        parts: Sequence[int] | None = None,
    ) -> list[list[Hypothesis]]:
        """Predict targets of each source, as `BatchDecoder` finds them.

        Args:
            inference: The model, ready to decode.
            sources: Token ids of each source.
            search: The search and its options.
            numbers: Number of each sentence, as in `BatchDecoder.translate`.
            parts: Number of each part, as in `BatchDecoder.translate`.

        Returns:
            Hypotheses of each source, best first.
        """
        if self.pairing.aligned:
            return inference.label(sources, numbers)
        return inference.translate(sources, search, numbers, parts)

    def write(self, vocabulary: Vocabulary, ids: Sequence[int]) -> str:
        """Turn a prediction into a line of text.

        Args:
            vocabulary: The target's vocabulary.
            ids: Token ids, without EOS.
        """
        # Byte tokens can spell an end of line, and a line out is a line in.
        return vocabulary.decode(ids).replace("\n", " ")

    def scores(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        vocabulary: Vocabulary,
        language: str | None,
    ) -> list[Score]:
        """Score written predictions, each score with its signature.

        Args:
            predictions: Lines of text.
            references: A reference for each.
            vocabulary: The target's vocabulary.
            language: Language of the references, where it is known.
        """
        return [exact_match(predictions, references)]

    def score(
        self,
        metric: str,
        predictions: Sequence[str],
        references: Sequence[str],
        vocabulary: Vocabulary,
        language: str | None,
    ) -> float:
        """Compute one of `best_metrics` that `evaluation` does not measure, of written predictions.

        Args:
            metric: Its name.
            predictions: Lines of text.
            references: A reference for each.
            vocabulary: The target's vocabulary.
            language: Language of the references, where it is known.
        """
        raise ValueError(f"the task does not measure its metric {metric!r}: write `score` for it")
