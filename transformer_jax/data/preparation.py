"""From text to a prepared corpus: vocabulary, token arrays, and a manifest of what they are made
of."""

import contextlib
import hashlib
import itertools
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from transformer_jax.config import DataConfig
from transformer_jax.config.languages import check_direction
from transformer_jax.data.corpus import Corpus, CorpusError, note_direction, write_corpus
from transformer_jax.data.manifest import Manifest, Texts
from transformer_jax.data.mixture import Mixture
from transformer_jax.data.pairing import Pairing
from transformer_jax.data.segmentation import split_sentences
from transformer_jax.data.text import ParallelText, TextError, TextFiles, is_blank
from transformer_jax.data.vocabulary import (
    SPECIAL,
    Vocabularies,
    Vocabulary,
    VocabularyError,
    train_vocabulary,
)
from transformer_jax.files import folder_lock, replaced_folder

__all__ = ["cache_folder", "load_splits", "mix_text", "prepare", "prepare_cached", "read_texts"]

if TYPE_CHECKING:  # tensorflow-datasets only where a dataset is asked for
    from transformer_jax.data.datasets import DatasetSplit

log = logging.getLogger(__name__)

# Folders of the parts of prepared text.
TRAIN, VALIDATION = "train", "validation"
# Pairs that a vocabulary is learned from at most; 37,000 types need no more.
VOCABULARY_PAIRS = 1_000_000


def prepare(
    data: DataConfig,
    vocab_size: int,
    folder: Path,
    given: Vocabularies | None = None,
    *,
    target_vocab_size: int | None = None,
    pairing: Pairing = Pairing(),
    texts: Texts | None = None,
) -> Path:
    """Train the vocabularies and tokenise the text into folder/train and folder/validation.

    What is there already from the same text with the same settings is left alone.

    Args:
        data: The text and the settings.
        vocab_size: Rows of the vocabulary, of the source's where the task has one a side.
        folder: Folder to write.
        given: Vocabularies that are used as they are.
        target_vocab_size: Rows of the target's own vocabulary, by default as many.
        pairing: How the task turns a pair into rows.
        texts: Training and validation text as the task reads them; by default `read_texts`.

    Returns:
        The folder.

    Raises:
        UserError: The text cannot be used, or the folder holds other prepared text.
    """
    texts = texts or read_texts(data)
    with folder_lock(folder):
        manifest = Manifest.of(texts, data, vocab_size, given, target_vocab_size, pairing)
        _prepare_unless_current(texts, manifest, folder, given, data)
    return folder


def prepare_cached(
    data: DataConfig,
    vocab_size: int,
    folder: Path,
    given: Vocabularies | None = None,
    *,
    target_vocab_size: int | None = None,
    pairing: Pairing = Pairing(),
    texts: Texts | None = None,
) -> None:
    """Prepare into a new folder through the cache, so that equal text is prepared once for all
    runs.

    Files are links to those of the cache where the file system allows, otherwise copies, so that
    either may be removed without the other.

    Args:
        data: The text and the settings; the cache is that of `data.cache_dir`.
        vocab_size: As in `prepare`.
        folder: As in `prepare`.
        given: As in `prepare`.
        target_vocab_size: As in `prepare`.
        pairing: As in `prepare`.
        texts: As in `prepare`.
    """
    marks = (folder / Manifest.FILE, folder / TRAIN / "corpus.json")
    if folder.exists() and any(folder.iterdir()) and not any(mark.is_file() for mark in marks):
        raise CorpusError(f"{folder} is not prepared text: give another folder")
    texts = texts or read_texts(data)
    manifest = Manifest.of(texts, data, vocab_size, given, target_vocab_size, pairing)
    # Of runs that were prepared with a record of sentences and languages, or without.
    record = f"{manifest.name} {data.known_direction} {find_spec('sentencex') is not None}"
    name = hashlib.sha256(record.encode()).hexdigest()[:16]
    cached = cache_folder(data.cache_dir) / "corpora" / name
    with _explained(data), folder_lock(cached):
        _prepare_unless_current(texts, manifest, cached, given, data)
        with replaced_folder(folder) as partial:
            ignore = shutil.ignore_patterns("lock")
            shutil.copytree(cached, partial, ignore=ignore, copy_function=_link, dirs_exist_ok=True)


def cache_folder(given: str | None) -> Path:
    """Return where prepared data is kept: `given`, $TRANSFORMER_JAX_CACHE, or under ~/.cache."""
    given = given or os.environ.get("TRANSFORMER_JAX_CACHE")
    if given is None:
        try:
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        except RuntimeError:  # no $HOME, and no user of this number
            raise CorpusError(
                "there is no home folder to keep prepared data in: name a folder with --cache-dir "
                "or $TRANSFORMER_JAX_CACHE"
            ) from None
        return home / "transformer_jax"
    return Path(given).absolute()


@contextlib.contextmanager
def _explained(data: DataConfig) -> Iterator[None]:
    """Name a cache that cannot be used, with the option for another one."""
    try:
        yield
    except OSError as error:
        folder = cache_folder(data.cache_dir)
        path = Path(str(error.filename))
        if folder not in (path, *path.parents) and path not in folder.parents:
            raise
        raise CorpusError(
            f"{path}: {error.strerror}: prepared data cannot be kept there; name another folder "
            "with --cache-dir or $TRANSFORMER_JAX_CACHE"
        ) from None


def read_texts(data: DataConfig) -> Texts:
    """Find the text of files or of a dataset.

    Returns:
        The training text, and the validation text or None.

    Raises:
        UserError: There is no such text.
    """
    if data.direction is not None and data.dataset in (None, "text"):  # others name their own
        check_direction(data.direction)
    if data.treebank or data.mixed_treebank:
        raise TextError(
            f"{' and '.join(data.treebanks)} are trees, and the task is {data.task}: start from "
            "--preset parsing"
        )
    other = TextFiles(*data.mixed_text) if data.mixed_text else None
    if data.dataset is not None:
        splits = load_splits(data)
        return mix_text(splits["train"], other, data.mixed_ratio), splits.get("validation")
    if data.train is None:
        raise CorpusError("no training text: give --train SOURCE TARGET or --dataset NAME")
    train = mix_text(TextFiles(*data.train), other, data.mixed_ratio)
    return train, data.validation and TextFiles(*data.validation)


def load_splits(data: DataConfig) -> "dict[str, DatasetSplit]":
    """Load the splits of the dataset that `data` names."""
    # A machine without tensorflow-datasets can train from files, or from a prepared corpus.
    try:
        from transformer_jax.data.datasets import load_dataset
    except ImportError as error:
        raise CorpusError(
            f"dataset {data.dataset} needs {error.name}, which is not installed here: install "
            "it, or run `transformer-jax prepare` where it is and give --corpus"
        ) from None

    cache = cache_folder(data.cache_dir)
    with _explained(data):
        return load_dataset(str(data.dataset), data.known_direction, data.data_dir, cache)


def mix_text(text: ParallelText, other: ParallelText | None, ratio: float) -> ParallelText:
    """Mix other text, where there is any, into a training text.

    Args:
        text: The training text.
        other: What is mixed in.
        ratio: Pairs of it for each pair of the text.

    Raises:
        UserError: There is a ratio and nothing to mix in.
    """
    if other is None:
        if ratio != 1.0:
            raise CorpusError(
                f"mixed_ratio {ratio:g}: there is no text to mix in: give --mixed-text "
                "SOURCE TARGET or --mixed-treebank, or leave --mixed-ratio out"
            )
        return text
    return Mixture(text, other, ratio)


def _prepare_unless_current(
    texts: Texts,
    manifest: Manifest,
    folder: Path,
    given: Vocabularies | None,
    data: DataConfig,
) -> None:
    """Prepare into `folder` unless it is up to date.

    The manifest is written last, so its absence marks an incomplete folder.
    """
    found = Manifest.read(folder)
    parts = {TRAIN: texts[0], VALIDATION: texts[1]}
    if found == manifest and all(_is_intact(folder / p) for p, text in parts.items() if text):
        log.info("prepared already, in %s", folder)
        if data.known_direction is not None:
            note_direction(folder / TRAIN, data.known_direction)
        return
    if found not in (None, manifest):
        raise CorpusError(
            f"{folder} was prepared from other text or with other settings, and runs may depend on "
            "it: give another folder, or remove this one first"
        )
    for part in parts:
        if (folder / part).exists() and not (folder / part / "corpus.json").is_file():
            raise CorpusError(f"{folder / part} is not prepared text: give another folder")
    train, validation = texts
    language = data.languages[0]
    if isinstance(train, Mixture):
        log.info("%s: %d and %d pairs of lines", train, *train.amounts)
    count, sentences = _survey(train, language, manifest.pairing)
    if validation is not None:
        _survey(validation, language, manifest.pairing)  # for its faults
    vocabularies = given or _train_vocabularies(manifest, train, -(-count // VOCABULARY_PAIRS))
    if manifest.pairing.target_vocabulary == "whitespace":
        _check_symbols(train, vocabularies.target, is_given=given is not None)
    (folder / Manifest.FILE).unlink(missing_ok=True)
    corpus = write_corpus(
        folder / TRAIN,
        train,
        vocabularies,
        manifest.max_length,
        pairing=manifest.pairing,
        sentences_per_line=sentences,
        direction=data.known_direction,
    )
    filtered = corpus.filtered_pairs
    log.info(
        "%s: %d pairs, vocabulary of %s; left out: %d with an empty side, %d beyond max_length %d",
        train, len(corpus), corpus.vocabularies, filtered["empty"], filtered["too_long"],
        manifest.max_length,
    )  # fmt: skip
    if filtered["too_long"] > 0.05 * (len(corpus) + filtered["too_long"]):
        log.warning("that leaves out more than 5% of the pairs: --max-length decides it")
    shutil.rmtree(folder / VALIDATION, ignore_errors=True)
    if validation is not None:
        filtered = write_corpus(
            folder / VALIDATION,
            validation,
            vocabularies,
            manifest.max_length,
            pairing=manifest.pairing,
        ).filtered_pairs
        if any(filtered.values()):
            log.info(
                "%s: left out: %d with an empty side, %d beyond max_length %d",
                validation, filtered["empty"], filtered["too_long"], manifest.max_length,
            )  # fmt: skip
    manifest.write(folder)


def _train_vocabularies(manifest: Manifest, text: ParallelText, apart: int) -> Vocabularies:
    """Train the vocabularies of a manifest from evenly spaced pairs of a text."""

    pipelines = manifest.pipelines

    def trained(sides: tuple[int, ...], size: int, kind: str = manifest.vocabulary) -> Vocabulary:
        # Evenly spaced pairs, because a vocabulary's trainer holds its lines in memory.
        some = itertools.islice(text, 0, None, apart)
        lines = (pipelines[side].apply(pair[side]) for pair in some for side in sides)
        tags = [tag for side in sides if (tag := pipelines[side].tag)]
        return train_vocabulary(kind, lines, size, tags)

    if manifest.target_vocab_size is None:
        joint = trained((0, 1), manifest.vocab_size)
        return Vocabularies.with_pipelines(joint, joint, pipelines)
    own_kind = manifest.pairing.target_vocabulary
    source = trained((0,), manifest.vocab_size)
    target = trained((1,), manifest.target_vocab_size, own_kind or manifest.vocabulary)
    return Vocabularies.with_pipelines(source, target, pipelines)


def _check_symbols(text: ParallelText, vocabulary: Vocabulary, is_given: bool) -> None:
    """Raise VocabularyError where a vocabulary lacks a symbol, all of which mean something."""
    symbols = {symbol for _, right in text for symbol in right.split()}
    held = vocabulary.tokens(range(len(vocabulary)))
    if lacking := sorted(symbols - {*held}):
        raise VocabularyError(
            f"{text} have the symbols {', '.join(lacking[:5])}, which the vocabulary of the run "
            f"that parameters come from lacks ({len(lacking)} in all): leave --init-from out"
            if is_given
            else f"{text} have {len(symbols)} symbols, and target_vocab_size {len(held)} holds "
            f"{len(held) - len(SPECIAL)}: raise it to {len(symbols) + len(SPECIAL)}"
        )


def _survey(text: ParallelText, language: str | None, pairing: Pairing) -> tuple[int, int | None]:
    """Count the pairs with text on the sides that are read, and the sentences in their source
    lines.

    Reading everything finds its faults before hours of work.

    Returns:
        The number of pairs, and the 99th percentile of sentences in a line (None where sentencex
        is not installed).
    """
    counts: Counter[int] = Counter()
    counting = find_spec("sentencex") is not None
    for left, right in text:
        if not (pairing.reads_source and is_blank(left)) and not is_blank(right):
            counts[len(split_sentences(left, language)) if counting else 0] += 1
    if not counts:
        raise TextError(f"{text} hold no pair of lines with text on both sides")
    total = counts.total()
    return total, percentile(counts, 0.99) if counting else None


def percentile(counts: Counter[int], share: float) -> int:
    """Return the smallest number that at least this share of what was counted does not exceed.

    >>> percentile(Counter({1: 98, 2: 1, 7: 1}), 0.99)
    2
    """
    below = 0
    for number in sorted(counts):
        below += counts[number]
        if below >= share * counts.total():
            break
    return number


def _is_intact(folder: Path) -> bool:
    try:
        Corpus.open(folder).verify()
    except CorpusError as error:
        log.warning("%s", error)
        return False
    return True


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
