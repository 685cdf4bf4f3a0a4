"""All scores of a trained run on a test set."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformer_jax.data.preparation import Receipt, cache_folder
from transformer_jax.data.text import ParallelText, TextError
from transformer_jax.data.vocabulary import WhitespaceVocabulary
from transformer_jax.errors import UserError
from transformer_jax.evaluation.bleu import Score, score_all, suited_bleu
from transformer_jax.run import Run
from transformer_jax.search import Search
from transformer_jax.translator import Translator

if TYPE_CHECKING:  # tensorflow-datasets only where a dataset is asked for
    from transformer_jax.data.datasets import DatasetText

__all__ = ["Evaluation", "dataset_splits", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Translations of the source text and what they score."""

    checkpoint: str
    perplexity: float
    scores: list[Score]
    translations: list[str]

    def __str__(self) -> str:
        head = [f"checkpoint: {self.checkpoint}", f"perplexity = {self.perplexity:.3f} per token"]
        return "\n".join([*head, *map(str, self.scores)])


def dataset_splits(run_dir: Path) -> "dict[str, DatasetText]":
    """Split -> its text, of the dataset that a run was trained on."""
    data = Run.open(run_dir).config.data
    if data.dataset is None:
        raise UserError(
            f"{run_dir}/config.json names no dataset, so it has no splits: give --test SOURCE "
            "REFERENCE"
        )
    from transformer_jax.data.datasets import load_dataset

    cache = cache_folder(data.cache_dir)
    splits = load_dataset(data.dataset, data.direction, data.data_dir, cache)
    receipt = Receipt.read(run_dir / "corpus")
    if receipt and receipt.train != splits["train"].identity:
        raise UserError(
            f"dataset {data.dataset} is not what {run_dir} was trained on any more, so its splits "
            "may hold training text: give --test SOURCE REFERENCE, or train again"
        )
    return splits


def evaluate(
    translator: Translator, text: ParallelText, search: Search, language: str
) -> Evaluation:
    """Perplexity per target token (EOS included, no smoothing), and the scores that suit the text.

    Text of a whitespace vocabulary is tokenised already and gets the BLEU of tokens; other text
    gets every score of raw text.
    """
    pairs = list(text)
    if not pairs:
        raise TextError(f"{text} hold no lines to evaluate on")
    sources, references = zip(*pairs)
    translations = translator.translate(sources, search)
    if isinstance(translator.vocabulary, WhitespaceVocabulary):
        scores = [suited_bleu(translator.vocabulary, translations, references)]
    else:
        scores = score_all(translations, references, language)
    return Evaluation(
        translator.checkpoint, translator.perplexity(sources, references), scores, translations
    )
