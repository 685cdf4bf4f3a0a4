"""All scores of a trained run on a test set of two text files."""

from dataclasses import dataclass
from pathlib import Path

from transformer_jax.data.text import TextError, read_pairs
from transformer_jax.data.vocabulary import WhitespaceVocabulary
from transformer_jax.evaluation.bleu import Score, score_all, suited_bleu
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

    Text of a whitespace vocabulary is tokenised already and gets the BLEU of tokens; other text
    gets every score of raw text.
    """
    pairs = list(read_pairs(*test))
    if not pairs:
        raise TextError(f"{test[0]} and {test[1]} hold no lines to evaluate on")
    translator = Translator.load(run_dir, checkpoint)
    sources, references = zip(*pairs)
    translations = translator.translate(sources, search)
    if isinstance(translator.vocabulary, WhitespaceVocabulary):
        scores = [suited_bleu(translator.vocabulary, translations, references)]
    else:
        scores = score_all(translations, references, language)
    return Evaluation(
        translator.checkpoint, translator.perplexity(sources, references), scores, translations
    )
