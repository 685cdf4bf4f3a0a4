"""A trained run as a translator of text."""

import dataclasses
import functools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import jax
import numpy as np

from transformer_jax.checkpoints import on_device
from transformer_jax.data.segmentation import cut
from transformer_jax.data.text import ParallelText, TextError, decode_lines
from transformer_jax.data.vocabulary import EOS_ID, Vocabulary, WhitespaceVocabulary
from transformer_jax.decoding.inference import Inference
from transformer_jax.errors import UserError
from transformer_jax.evaluation.bleu import Score, score_all, suited_bleu
from transformer_jax.models.transformer import Transformer
from transformer_jax.parallel import Layout
from transformer_jax.run import Run
from transformer_jax.search import Search

__all__ = ["Attention", "Evaluation", "Translation", "Translator"]

T = TypeVar("T")
log = logging.getLogger(__name__)

# Lines translated together: enough to group by length, few enough to stream.
CHUNK = 1024


@dataclass(frozen=True)
class Translation:
    """Text, log-probability in nats, and score = log-probability / length penalty."""

    text: str
    log_prob: float
    score: float


@dataclass(frozen=True)
class Attention:
    """Attention weights of one sentence pair, float32; the keys of a row sum to 1.

    source          S pieces that the encoder reads, "</s>" last
    target_read     T pieces that the decoder has read at each position, "<s>" first
    target_written  T pieces that it writes there, "</s>" last
    encoder [L, H, S, S]   decoder [L, H, T, T]   cross [L, H, T, S]
    """

    source: list[str]
    target_read: list[str]
    target_written: list[str]
    encoder: np.ndarray
    decoder: np.ndarray
    cross: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """Translations of a test set and what they score; `str` shows them with their signatures.

    perplexity  per target token, EOS included, no smoothing
    """

    checkpoint: str
    perplexity: float
    scores: list[Score]
    translations: list[str]

    def __str__(self) -> str:
        head = [f"checkpoint: {self.checkpoint}", f"perplexity = {self.perplexity:.3f} per token"]
        return "\n".join([*head, *map(str, self.scores)])


class Translator:
    """Text in, text out, from a run folder alone.

    A line of more than `max_length` tokens, EOS included, is translated in pieces.
    """

    def __init__(
        self,
        model: Transformer,
        params,
        vocabulary: Vocabulary,
        checkpoint: str = "",
        max_length: int = 256,
        layout: Layout | None = None,
    ):
        self.model, self.params, self.vocabulary = model, params, vocabulary
        self.checkpoint, self.max_length = checkpoint, max_length
        self._inference = Inference(model, params, layout=layout)

    @classmethod
    def load(cls, run_dir: str | Path, checkpoint: str = "averaged") -> "Translator":
        """From a run folder. `checkpoint`: "averaged", "best", "last" or a step.

        The devices of this process share the sentences.
        """
        run = Run.open(Path(run_dir))
        devices = jax.local_devices()
        layout = Layout(devices, data=len(devices))
        place = functools.partial(on_device, sharding=layout.replicated)
        params, name = run.load_params(checkpoint, place)
        model, longest = Transformer(run.config.model), run.config.data.max_length
        return cls(model, params, run.vocabulary, name, longest, layout)

    def translate(self, lines: Sequence[str], search: Search | None = None, **options) -> list[str]:
        """The best translation of each line; an empty line stays empty.

        Takes a `Search`, or its fields as keywords: translate(lines, beam_size=4, alpha=0.6).
        """
        found = self.translations(lines, search, **options)
        return [best[0].text if best else "" for best in found]

    def translations(
        self, lines: Sequence[str], search: Search | None = None, first: int = 0, **options
    ) -> list[list[Translation]]:
        """n_best translations of each line, best first; an empty line has none.

        `first` is the number of the first line, by which samples are drawn. The translations of a
        line too long for the model are those of its pieces, the best with the best.
        """
        if isinstance(lines, str):
            raise TypeError("lines is one string: give a list of lines")
        search = dataclasses.replace(search or Search(), **options)
        pieces: list[list[int]] = []
        numbers: list[int] = []
        for number, line in enumerate(lines, first):
            for ids in self._encode(line, number):
                pieces.append(ids)
                numbers.append(number)
        results: list[list[list[Translation]]] = [[] for _ in lines]
        for number, hypotheses in zip(numbers, self._inference.translate(pieces, search, numbers)):
            if not hypotheses:
                log.warning(
                    "line %d: nothing in it has a finite score, so it is left out: are the "
                    "parameters finite?", number + 1,
                )  # fmt: skip
                continue
            # Byte tokens can spell an end of line, and a line out is a line in.
            texts = [self.vocabulary.decode(h.ids).replace("\n", " ") for h in hypotheses]
            results[number - first].append(
                [Translation(t, h.log_prob, h.score) for t, h in zip(texts, hypotheses)]
            )
        return [[_joined(parts) for parts in zip(*found)] for found in results]

    def _encode(self, line: str, number: int) -> list[list[int]]:
        """Token ids of a line, or of its pieces where the model has never read one as long."""
        encode = self.vocabulary.encode
        ids = encode(line)
        if len(ids) < self.max_length:
            return [ids] if ids else []
        pieces = cut(line, lambda text: len(encode(text)) < self.max_length)
        log.warning(
            "line %d has %d tokens, the model was trained on at most %d: translated in %d pieces",
            number + 1, len(ids), self.max_length - 1, len(pieces),
        )  # fmt: skip
        return [found for piece in pieces if (found := encode(piece))]

    def translate_stream(
        self,
        source: BinaryIO,
        output: BinaryIO,
        search: Search,
        *,
        name: str,
        line_by_line: bool,
        scores: bool = False,
    ) -> None:
        """Translate UTF-8 lines as they come, in order; `line_by_line` for a person typing.

        `name` is what errors call the source.

        One line out for one in; with `scores` or n_best > 1 one for each translation, as Moses
        writes them: number of the line from 0 ||| text ||| score. Lines before a faulty one are
        translated.
        """
        first = 0
        for lines in _chunks(decode_lines(source, name), 1 if line_by_line else CHUNK):
            for number, found in enumerate(self.translations(lines, search, first), first):
                if scores or search.n_best > 1:
                    texts = [f"{number} ||| {t.text} ||| {t.score:.4f}" for t in found]
                else:
                    texts = [found[0].text if found else ""]
                output.write("".join(f"{text}\n" for text in texts).encode())
            output.flush()
            first += len(lines)

    def attention(self, source: str, target: str | None = None) -> Attention:
        """What the model attends to when it writes `target` (default: its own translation)."""
        read = self._encode_whole(source, "source")
        if target is None:
            [target] = self.translate([source])
        written = self._encode_whole(target, "target")
        tokens = self.vocabulary.tokens
        return Attention(
            tokens([*read, EOS_ID]),
            ["<s>", *tokens(written)],
            tokens([*written, EOS_ID]),
            *self._inference.attention(read, written),
        )

    def _encode_whole(self, line: str, side: str) -> list[int]:
        ids = self.vocabulary.encode(line)
        if len(ids) >= self.max_length:
            raise UserError(
                f"the {side} has {len(ids)} tokens, the model was trained on at most "
                f"{self.max_length - 1}: give a shorter sentence"
            )
        return ids

    def score_stream(self, text: ParallelText) -> Iterator[float]:
        """As `score`, pair by pair of a text of any length."""
        first = 0
        for pairs in _chunks(iter(text), CHUNK):
            sources, targets = zip(*pairs)
            yield from self.score(sources, targets, first)
            first += len(pairs)

    def score(self, sources: Sequence[str], targets: Sequence[str], first: int = 0) -> list[float]:
        """Log-probability in nats, EOS included, of each target given its source (no penalty).

        `first` is the number of the first pair, for messages.
        """
        return [float(part.sum()) for part in self._token_log_probs(sources, targets, first)]

    def evaluate(
        self,
        sources: Sequence[str],
        references: Sequence[str],
        search: Search | None = None,
        *,
        language: str,
        **options,
    ) -> Evaluation:
        """Translations of the sources and every score of them that suits the text.

        Text of a whitespace vocabulary is tokenised already and gets the BLEU of tokens; other
        text gets every score of raw text. `language` is that of the references.
        """
        translations = self.translate(sources, search, **options)
        if isinstance(self.vocabulary, WhitespaceVocabulary):
            scores = [suited_bleu(self.vocabulary, translations, references)]
        else:
            scores = score_all(translations, references, language)
        perplexity = self.perplexity(sources, references)
        return Evaluation(self.checkpoint, perplexity, scores, translations)

    def perplexity(self, sources: Sequence[str], targets: Sequence[str]) -> float:
        """Per target token, EOS included: exp of the mean negative log-likelihood."""
        parts = self._token_log_probs(sources, targets)
        return math.exp(-sum(part.sum() for part in parts) / sum(map(len, parts)))

    def _token_log_probs(self, sources, targets, first=0):
        if len(sources) != len(targets):
            raise UserError(f"{len(sources)} sources but {len(targets)} targets")
        read, written = (self.vocabulary.encode_all(side) for side in (sources, targets))
        return self._inference.score(read, written, range(first, first + len(sources)))


def _joined(parts: Sequence[Translation]) -> Translation:
    return Translation(
        " ".join(part.text for part in parts),
        sum(part.log_prob for part in parts),
        sum(part.score for part in parts),
    )


def _chunks(lines: Iterator[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` lines; an error of the reader is raised after the lines before it."""
    chunk: list[T] = []
    try:
        for line in lines:
            chunk.append(line)
            if len(chunk) == size:
                yield chunk
                chunk = []
    except TextError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk
