"""A trained run as a parser of sentences."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

from transformer_jax.data.text import is_blank
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError, did_you_mean
from transformer_jax.parsing.linearization import ANY_TAG, linearize
from transformer_jax.parsing.scores import score_parses
from transformer_jax.parsing.treebank import sentence_of
from transformer_jax.parsing.trees import ROOT, Tree, spell, words, write_brackets
from transformer_jax.results import Evaluation
from transformer_jax.tasks import ParsingTask
from transformer_jax.translator import Translator

__all__ = ["Parser", "TooLong"]

TooLong = Literal["refuse", "flat"]


class Parser(Translator):
    """A model that was trained for parsing, usually loaded from a run folder.

    It is a translator of sentences to symbols, too.
    """

    task: ParsingTask

    def __init__(self, *arguments, **options):
        """Make a parser of a model.

        Args:
            *arguments: As of a `Translator`.
            **options: As of a `Translator`.

        Raises:
            UserError: The model was trained for another task.
        """
        super().__init__(*arguments, **options)
        if not isinstance(self.task, ParsingTask):
            raise UserError(
                "the model was not trained for parsing: train one with --preset parsing, or "
                "translate with it"
            )

    def parse(
        self,
        sentences: Iterable[str | Sequence[str]],
        search: Search | None = None,
        *,
        too_long: TooLong = "refuse",
        first: int = 0,
        **options,
    ) -> list[Tree | None]:
        """Parse sentences.

        Args:
            sentences: Each with its words and punctuation separated by spaces, or as a list of
                words; brackets in them may be spelled as they are or as treebanks do.
            search: The search; None is the paper's, of 21 hypotheses with alpha 0.3.
            too_long: What to do with a sentence of more pieces than any that the model was trained
                on: refuse it, or give a tree in which every word is a child of the root.
            first: Number of the first sentence, for messages.
            **options: Fields of `Search` instead, as in parse(sentences, beam_size=1).

        Returns:
            A tree over exactly the words of each sentence; None for an empty sentence, and where
            a search without constraint has found no tree.

        Raises:
            UserError: A sentence is too long.
        """
        if too_long not in get_args(TooLong):
            raise UserError(f"too_long {too_long!r}: {did_you_mean(too_long, get_args(TooLong))}")
        if isinstance(sentences, str):
            raise TypeError("sentences is one string: give a list of sentences")
        split = [_spelled_words(each, number) for number, each in enumerate(sentences, first + 1)]
        lines = [sentence_of(each) for each in split]
        is_long = [self._is_too_long(line, n, too_long) for n, line in enumerate(lines, first)]
        short = ["" if long else line for line, long in zip(lines, is_long)]
        found = self.translations(short, search, first, split_sentences="never", **options)
        return [
            flat_tree(each) if long else self.task.tree(best[0].text, each) if best else None
            for each, long, best in zip(split, is_long, found)
        ]

    def _is_too_long(self, line: str, number: int, too_long: TooLong) -> bool:
        pieces = len(self.vocabularies.source.encode(line))
        most = self.max_length - 1
        if pieces > most and too_long == "refuse":
            raise UserError(
                f"sentence {number + 1} has {pieces} pieces, the model was trained on at most "
                f"{most}: split it, or give --too-long flat for a tree without constituents"
            )
        return pieces > most

    def evaluate_trees(
        self,
        trees: Iterable[Tree],
        search: Search | None = None,
        *,
        on_progress: Callable[[int], object] | None = None,
        **options,
    ) -> Evaluation:
        """Parse the sentences of gold trees, and score the parses by EVALB's rules.

        Sentences that are too long get trees without constituents, and count.

        Args:
            trees: The gold trees, cleaned.
            search: As in `parse`.
            on_progress: Called with numbers of sentences that have been parsed.
            **options: Fields of `Search` instead.

        Returns:
            The parses in brackets, one a line, and their scores.
        """
        trees = list(trees)
        if not trees:
            raise UserError("there are no trees to parse and score")
        split = [words(tree) for tree in trees]
        lines = [sentence_of(each) for each in split]
        symbols = [" ".join(linearize(tree, self.task.order)) for tree in trees]
        perplexity = self.perplexity(lines, symbols)
        with self._inference.reporting(on_progress):
            parses = self.parse(split, search, too_long="flat", **options)
        texts = ["" if parse is None else write_brackets(parse) for parse in parses]
        return Evaluation(self.checkpoint, perplexity, score_parses(trees, parses), texts)


def _spelled_words(sentence: str | Sequence[str], number: int) -> list[str]:
    """The words of a sentence as treebanks spell them; none of one that shows nothing."""
    given = sentence.split() if isinstance(sentence, str) else list(sentence)
    for word in given:
        if word.split() != [word]:
            raise UserError(f"sentence {number}: {word!r:.80} is not one word: split it at spaces")
    return [] if is_blank("".join(given)) else [spell(word) for word in given]


def flat_tree(words: Sequence[str]) -> Tree:
    """Make the tree in which every word is a child of the root.

    >>> str(flat_tree(["We", "left"]))
    '(TOP (XX We) (XX left))'
    """
    return Tree(ROOT, tuple(Tree(ANY_TAG, word=word) for word in words))
