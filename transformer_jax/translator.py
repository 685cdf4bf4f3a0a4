"""A trained run as a translator of text."""

import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.config.languages import check_language
from transformer_jax.config.model import Dtype
from transformer_jax.data.corpus import LineStatistics
from transformer_jax.data.splitting import LineSplitter, Splitting, check_splitting
from transformer_jax.data.text import chunks, decode_lines, empty_blanks, is_blank, list_lines
from transformer_jax.data.vocabulary import Vocabularies, Vocabulary
from transformer_jax.decoding.options import Search
from transformer_jax.devices.layout import Layout, single_device_template
from transformer_jax.devices.settings import usual_settings
from transformer_jax.errors import UserError
from transformer_jax.results import AttentionMaps, Evaluation, Translation
from transformer_jax.run.single_file import open_run
from transformer_jax.run.variables import load_variables
from transformer_jax.tasks import TASKS, Task

__all__ = ["Translator"]

log = logging.getLogger(__name__)
# Lines translated together: enough to group by length, few enough to stream.
LINES_PER_CHUNK = 1024


class Translator:
    """A trained model as a translator of text, usually loaded from a run folder.

    Its output is what the run's task writes, which need not be a translation.

    Attributes:
        model: The Flax module.
        params: Its parameters.
        vocabularies: Those of source and target; `vocabulary` is that of the source.
        checkpoint: Name of the checkpoint that was loaded.
        max_length: Most tokens of a sentence, EOS included, in training; longer ones are split.
        languages: Those of source and target, where they are known.
        task: What the model was trained for.
    """

    def __init__(
        self,
        model: nn.Module,
        params,
        vocabulary: Vocabulary | Vocabularies,
        checkpoint: str = "",
        max_length: int = 256,
        layout: Layout | None = None,
        *,
        lines: LineStatistics | None = None,
        languages: tuple[str, str] | tuple[None, None] = (None, None),
        task: Task = TASKS["translation"],
        collections: dict[str, Any] | None = None,
    ):
        """Make a translator of a model.

        Args:
            model: A model of a family.
            params: Its parameters.
            vocabulary: That of both sides, or `Vocabularies`.
            checkpoint: A name to show.
            max_length: Most tokens of a sentence, EOS included.
            layout: Devices among which sentences are distributed; None uses one.
            lines: What the training text's lines are like, where that is known.
            languages: Those of source and target, where they are known.
            task: What the model was trained for.
            collections: What the model's variables hold beside its parameters.
        """
        if not isinstance(vocabulary, Vocabularies):
            vocabulary = Vocabularies(vocabulary, vocabulary)
        self.model, self.params, self.vocabularies = model, params, vocabulary
        self.checkpoint, self.max_length = checkpoint, max_length
        self.languages, self.task = languages, task
        self._splitter = LineSplitter(vocabulary.source, max_length, lines, languages, task.pairing)
        variables = {"params": params, **(collections or {})}
        self._inference = task.decoder(model, variables, vocabulary, max_length, layout)

    @property
    def vocabulary(self) -> Vocabulary:
        """The source's vocabulary, which is the target's too where they share one."""
        return self.vocabularies.source

    @classmethod
    @usual_settings()
    def load(
        cls, run_dir: str | Path, checkpoint: str = "averaged", dtype: Dtype | None = None
    ) -> Self:
        """Load a translator of a run; the devices of this process share the sentences.

        Args:
            run_dir: The run folder, or a file that `export` wrote of it.
            checkpoint: "averaged", "best", "last" or a step.
            dtype: Of the computation, "float32" or "bfloat16"; None computes as in training.

        Raises:
            UserError: It is not a run folder, or has no such checkpoint.
        """
        run = open_run(Path(run_dir))
        devices = jax.local_devices()
        layout = Layout(devices, data=len(devices))
        place = functools.partial(single_device_template, sharding=layout.replicated)
        variables, name = load_variables(run, checkpoint, place)
        data, config = run.config.data, run.config.model
        return cls(
            run.task.model(config.with_dtype(dtype) if dtype else config, run.vocabularies),
            variables.pop("params"),
            run.vocabularies,
            name,
            data.max_length,
            layout,
            lines=run.lines,
            languages=data.languages,
            task=run.task,
            collections=variables,
        )

    def __reduce__(self):
        raise TypeError(
            "a Translator holds compiled functions and cannot be pickled: give the other process "
            "its run folder, to call Translator.load there"
        )

    def translate(
        self,
        lines: Iterable[str],
        search: Search | None = None,
        *,
        split_sentences: Splitting = "auto",
        **options,
    ) -> list[str]:
        """Translate lines; an empty line stays empty.

        Args:
            lines: Lines of text.
            search: The search; None is the task's.
            split_sentences: As in `translations`.
            **options: Fields of `Search` instead, as in translate(lines, beam_size=4, alpha=0.6).

        Returns:
            The best translation of each line.

        Raises:
            UserError: n_best is more than 1, which is for `translations`.
        """
        search = (search or self.task.search).with_options(**options)
        if search.n_best > 1:
            raise UserError(
                f"translate gives one translation of each line, not n_best {search.n_best}: call "
                "translations"
            )
        found = self.translations(lines, search, split_sentences=split_sentences)
        return [best[0].text if best else "" for best in found]

    @usual_settings()
    def translations(
        self,
        lines: Iterable[str],
        search: Search | None = None,
        first: int = 0,
        *,
        split_sentences: Splitting = "auto",
        **options,
    ) -> list[list[Translation]]:
        """Translate lines, with all n_best translations and their scores.

        A line is split into parts, and its translations are those of the parts, the best with the
        best:

        - auto: into its sentences where it holds more of them than the training text's lines,
          and those into pieces no longer than the longest line of that text;
        - always: into its sentences wherever it holds more than one, and those as before;
        - never: into pieces of `max_length` where it is longer.

        Args:
            lines: Lines of text.
            search: The search; None is the task's.
            first: Number of the first line, by which samples are drawn.
            split_sentences: auto, always or never.
            **options: Fields of `Search` instead.

        Returns:
            n_best translations of each line, best first; none of an empty line.
        """
        lines = list_lines("lines", lines)
        check_splitting(split_sentences)
        search = (search or self.task.search).with_options(**options)
        pieces: list[list[int]] = []
        numbers: list[int] = []
        parts: list[int] = []
        for number, line in enumerate(lines, first):
            for part, ids in enumerate(self._splitter.encode(line, number, split_sentences)):
                pieces.append(ids)
                numbers.append(number)
                parts.append(part)
        results: list[list[list[Translation]]] = [[] for _ in lines]
        searched = self.task.predict(self._inference, pieces, search, numbers, parts)
        for number, hypotheses in zip(numbers, searched):
            if not hypotheses:
                log.warning(
                    "line %d: nothing in it has a finite score, so it is left out: are the "
                    "parameters finite?", number + 1,
                )  # fmt: skip
                continue
            texts = [self.task.write(self.vocabularies.target, h.ids) for h in hypotheses]
            results[number - first].append(
                [Translation(t, h.log_prob, h.score) for t, h in zip(texts, hypotheses)]
            )
        return [[self._join(parts) for parts in zip(*found)] for found in results]

    def _join(self, parts: Sequence[Translation]) -> Translation:
        return Translation(
            self._splitter.join([part.text for part in parts]),
            sum(part.log_prob for part in parts),
            sum(part.score for part in parts),
        )

    def translate_stream(
        self,
        source: BinaryIO,
        output: BinaryIO,
        search: Search,
        *,
        name: str,
        line_by_line: bool,
        scores: bool = False,
        split_sentences: Splitting = "auto",
    ) -> None:
        """Translate UTF-8 lines as they come, one line out for each line in, in order.

        With `scores` or n_best > 1 there is a line for each translation, in Moses' format: number
        of the line from 0 ||| text ||| score. A line without a translation has an empty one. Lines
        before a faulty one are translated.

        Args:
            source: Stream to read.
            output: Stream to write.
            search: The search.
            name: What errors call the source.
            line_by_line: Whether to translate each line as it comes, for a person typing.
            scores: Whether to write scores.
            split_sentences: As in `translations`.
        """
        first = 0
        for lines in chunks(decode_lines(source, name), 1 if line_by_line else LINES_PER_CHUNK):
            results = self.translations(lines, search, first, split_sentences=split_sentences)
            for number, found in enumerate(results, first):
                texts = [t.text for t in found[: search.n_best]] or [""]
                if scores or search.n_best > 1:
                    # A blank line scores 0 for its empty translation, any other line -inf.
                    blank = is_blank(lines[number - first])
                    numbers = [t.score for t in found] or [0.0 if blank else -math.inf]
                    texts = [f"{number} ||| {t} ||| {s:.4f}" for t, s in zip(texts, numbers)]
                output.write("".join(f"{text}\n" for text in texts).encode())
            output.flush()
            first += len(lines)
        log.info("the search was compiled as %d programs", self._inference.program_count)

    @usual_settings()
    def attention(self, source: str, target: str | None = None) -> AttentionMaps:
        """Compute the attention weights of a sentence pair.

        Args:
            source: A sentence.
            target: Its translation; None is the model's own.

        Raises:
            UserError: The source is empty, or a side is too long.
        """
        pairing, (of_source, of_target) = self.task.pairing, self.vocabularies
        read = self._encode_checked(of_source, source, "source")
        if target is None:
            [target] = self.translate([source], split_sentences="never")
        written = self._encode_checked(of_target, target, "target")
        return AttentionMaps(
            of_source.tokens(pairing.source(read)),
            ["<s>", *of_target.tokens(pairing.target(written)[:-1])],
            of_target.tokens(pairing.target(written)),
            *self._inference.attention(read, written),
        )

    def _encode_checked(self, vocabulary: Vocabulary, line: str, side: str) -> list[int]:
        if side == "source" and is_blank(line):
            raise UserError("the source is empty: give a sentence")
        ids = vocabulary.encode(line)
        row = getattr(self.task.pairing, side)(ids)
        if len(row) > self.max_length:
            raise UserError(
                f"the {side} has {len(ids)} tokens, the model was trained on at most "
                f"{self.max_length - len(row) + len(ids)}: give a shorter sentence"
            )
        return ids

    def score_stream(self, text: Iterable[tuple[str, str]]) -> Iterator[float]:
        """Yield `score` of each pair of a text of any length."""
        first = 0
        for pairs in chunks(iter(text), LINES_PER_CHUNK):
            sources, targets = zip(*pairs)
            yield from self.score(sources, targets, first)
            first += len(pairs)

    def score(self, sources: Iterable[str], targets: Iterable[str], first: int = 0) -> list[float]:
        """Compute the log-probability of each target given its source, teacher-forced.

        Args:
            sources: Lines of text.
            targets: Their translations.
            first: Number of the first pair, for messages.

        Returns:
            Log-probabilities in nats, EOS included, without length penalty; NaN for a pair that is
            too long to be read at once.
        """
        parts = self._token_log_probs(sources, targets, first)
        return [float(part.sum()) if len(part) else math.nan for part in parts]

    def evaluate(
        self,
        sources: Iterable[str],
        references: Iterable[str],
        search: Search | None = None,
        *,
        language: str | None = None,
        on_progress: Callable[[int], object] | None = None,
        **options,
    ) -> Evaluation:
        """Translate sources and score the translations against references.

        Lines are not split unless they are longer than `max_length`.

        Args:
            sources: Lines of text.
            references: A reference for each.
            search: The search; None is the task's.
            language: Language of the references; None is the target language of the run.
            on_progress: Called with numbers of lines that have been translated.
            **options: Fields of `Search` instead.

        Returns:
            The translations and every score that the task has for such text.
        """
        language = self.languages[1] if language is None else language
        if language is not None:
            check_language(language)
        sources, references = list_lines("sources", sources), list_lines("references", references)
        if not sources:
            raise UserError("there are no sources to translate and score")
        if on_progress is not None:
            on_progress(sum(map(is_blank, sources)))
        perplexity = self.perplexity(sources, references)  # first, for what it warns of
        with self._inference.reporting(on_progress):
            translations = self.translate(sources, search, split_sentences="never", **options)
        scores = self.task.scores(translations, references, self.vocabularies.target, language)
        return Evaluation(self.checkpoint, perplexity, scores, translations)

    def perplexity(self, sources: Iterable[str], targets: Iterable[str]) -> float:
        """Compute exp of the mean negative log-likelihood per target token, EOS included.

        Pairs that are too long to be read at once are left out.

        Args:
            sources: Lines of text.
            targets: A translation of each.
        """
        parts = self._token_log_probs(sources, targets)
        count = sum(map(len, parts))
        return math.exp(-sum(part.sum() for part in parts) / count) if count else math.nan

    @usual_settings()
    def _token_log_probs(self, sources, targets, first=0):
        """Compute log-probabilities of target tokens, EOS last; none for a pair too long."""
        sources = empty_blanks(list_lines("sources", sources))
        targets = empty_blanks(list_lines("targets", targets))
        if len(sources) != len(targets):
            raise UserError(f"{len(sources)} sources but {len(targets)} targets")
        of_source, of_target = self.vocabularies
        read, written = of_source.encode_all(sources), of_target.encode_all(targets)
        most, pairing, short = self._inference.max_length, self.task.pairing, []
        for number, pair in enumerate(zip(read, written)):
            if (longest := max(len(pairing.source(pair[0])), len(pairing.target(pair[1])))) <= most:
                short.append(number)
                continue
            log.warning(
                "line %d has %d tokens with EOS, more than the %d that can be read at once: it is "
                "not scored", first + number + 1, longest, most,
            )  # fmt: skip
        found = [np.empty(0)] * len(sources)
        read, written = ([side[number] for number in short] for side in (read, written))
        for number, part in zip(short, self._inference.score(read, written)):
            found[number] = part
        return found
