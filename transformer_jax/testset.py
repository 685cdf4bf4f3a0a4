"""All scores of a trained run on a test set of two text files."""

from dataclasses import dataclass
from pathlib import Path

from transformer_jax.data.text import read_pairs
from transformer_jax.data.vocabulary import WhitespaceVocabulary
from transformer_jax.evaluation.bleu import Score, score_all, tokenized_bleu
from transformer_jax.search import Search
from transformer_jax.translator import Translator

__all__ = ["Evaluation", "evaluate_files"]


@dataclass(frozen=True)
class Evaluation:
    """Translations of the source file and what they score."""

    checkpoint: str
    perplexity: float
    scores: list[Score]
    translations: list[str]

    def __str__(self) -> str:
        head = [f"checkpoint: {self.checkpoint}", f"perplexity = {self.perplexity:.3f} per token"]
        return "\n".join([*head, *map(str, self.scores)])


def evaluate_files(
    run_dir: Path, test: tuple[Path, Path], search: Search, checkpoint: str, language: str
) -> Evaluation:
    """Perplexity per target token (EOS included, no smoothing), and the scores that suit the text.

    Text of a whitespace vocabulary is tokenised already: its translations are joined where
    subword-nmt's "@@ " cut them and scored as tokens. Other text gets every score of raw text.
    """
    translator = Translator.load(run_dir, checkpoint)
    sources, references = zip(*read_pairs(*test))
    translations = translator.translate(sources, search)
    if isinstance(translator.vocabulary, WhitespaceVocabulary):
        joined = [[join_subwords(line) for line in side] for side in (translations, references)]
        scores = [tokenized_bleu(*joined)]
    else:
        scores = score_all(translations, references, language)
    return Evaluation(
        translator.checkpoint, translator.perplexity(sources, references), scores, translations
    )


def join_subwords(line: str) -> str:
    """Undo subword-nmt's segmentation.

    >>> join_subwords("pul@@ ley sys@@ tem")
    'pulley system'
    """
    return (line + " ").replace("@@ ", "").rstrip(" ")
