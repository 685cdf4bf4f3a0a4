"""Datasets by name: prepared once by tensorflow-datasets as array_record, read without TensorFlow.

grammar           the embedded corpus; grammar/10k, /30k (the default), /100k, /1m training pairs
text              a folder of one's own: train.LANGUAGE, validation.LANGUAGE, test.LANGUAGE, or the
                  same as .tsv; or one .tsv file
multi30k          29,000 captions in en, de, fr (Elliott et al. 2016): downloaded, or a folder
wmt14_translate   en-de (4.5M pairs, section 5.1) and en-fr: downloaded, or a folder of archives
wmt16_translate   en-de
"""

import contextlib
import errno
import io
import logging
import pwd
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from transformer_jax.config.languages import languages_of
from transformer_jax.data import builders, wmt
from transformer_jax.errors import UserError, did_you_mean
from transformer_jax.files import folder_lock

__all__ = ["DatasetError", "DatasetSplit", "load_dataset"]

log = logging.getLogger(__name__)

# Examples read together.
READ_CHUNK = 4096
DATASETS = ("grammar", "text", "multi30k", "wmt14_translate", "wmt16_translate")


class DatasetError(UserError):
    """A dataset that cannot be had; the message names it, what is missing and the remedy."""


@dataclass(frozen=True)
class DatasetSplit:
    """Pairs of two languages of a prepared split."""

    builder: tfds.core.DatasetBuilder
    split: str
    source: str
    target: str

    @property
    def identity(self) -> str:
        return f"{self.builder.info.full_name} {self.split} {self.source}-{self.target}"

    def __len__(self) -> int:
        return self.builder.info.splits[self.split].num_examples

    def __iter__(self) -> Iterator[tuple[str, str]]:
        # Only the two texts, straight from the stored message: decoding all features by their types
        # takes ten times as long.
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        for record in self._records(deserialize_method=raw):
            stored = tf_example_pb2.Example.FromString(record).features.feature
            source, target = (
                stored[side].bytes_list.value[0] for side in (self.source, self.target)
            )
            yield source.decode(), target.decode()

    def examples(self) -> Iterator[dict]:
        """Everything that is stored of each pair; text is bytes."""
        return self._records()

    def _records(self, **options) -> Iterator:
        """One by one, read many at a time."""
        with _reading(Path(self.builder.data_dir)):
            data = self.builder.as_data_source(self.split, **options)
        for start in range(0, len(data), READ_CHUNK):
            with _reading(Path(self.builder.data_dir)):
                records = data.__getitems__(range(start, min(start + READ_CHUNK, len(data))))
            yield from records

    def __str__(self) -> str:
        return f"split {self.split} of {self.builder.info.full_name}"


def load_dataset(
    name: str, direction: str | None, data_dir: str | None, cache: Path
) -> dict[str, DatasetSplit]:
    """Load a dataset, prepared under `cache` unless it is there already.

    Args:
        name: One of DATASETS; grammar takes a size, as in grammar/10k.
        direction: Source and target language, as en-de.
        data_dir: The user's own files or archives; None generates or downloads them.
        cache: Folder to prepare it in.

    Returns:
        Split -> its text.

    Raises:
        DatasetError: The dataset is unknown, damaged, or cannot be prepared.
    """
    if direction is None:
        raise DatasetError(f"dataset {name} needs --direction SOURCE-TARGET, as en-de")
    source, target = languages_of(direction)
    root = cache / "tensorflow_datasets"
    with _reading(root / name.partition("/")[0]):
        builder = _builder(name, source, target, data_dir, root)
    if not builder.is_prepared():
        folder = Path(builder.data_dir)
        with folder_lock(folder.parent):  # jobs that start together prepare once
            builder = _builder(name, source, target, data_dir, root)
            if not builder.is_prepared():
                log.info("preparing %s, once, in %s", builder.info.full_name, folder)
                _prepare(builder, data_dir)
            if not builder.info.splits:
                raise _damaged(folder)
    return {split: DatasetSplit(builder, split, source, target) for split in builder.info.splits}


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """What goes wrong when a prepared dataset is read, in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # its readers and parsers raise whatever they meet
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.ENOSPC):
            raise  # it cannot be written
        raise _damaged(folder) from error


def _damaged(folder: Path) -> DatasetError:
    return DatasetError(f"{folder} cannot be read: remove it, and it is prepared again")


def _builder(
    name: str, source: str, target: str, data_dir: str | None, root: Path
) -> tfds.core.DatasetBuilder:
    name, _, config = name.partition("/")
    if name not in DATASETS:
        raise DatasetError(f"dataset {name!r} is unknown; {did_you_mean(name, DATASETS)}")
    if config and name != "grammar":
        raise DatasetError(f"dataset {name} has no configuration {config!r}: leave it out")
    if name == "text":
        if data_dir is None:
            raise DatasetError("dataset text needs --data-dir: a folder, or a .tsv file")
        return builders.ParallelFiles(Path(data_dir), source, target, root)
    languages: tuple[tuple[str, ...], ...]
    if name.startswith("wmt"):
        languages = wmt.PAIRS[name]
    else:
        languages = (("en", "de"),) if name == "grammar" else (builders.Multi30k.LANGUAGES,)
    fitting = [group for group in languages if {source, target} <= set(group)]
    if not fitting:
        known = [f"{a}-{b}" for g in languages for a in g for b in g if a != b]
        wrong = f"{source}-{target}"
        raise DatasetError(
            f"dataset {name} has no direction {wrong!r}; {did_you_mean(wrong, known)}"
        )
    if name == "grammar":
        if data_dir is not None:
            raise DatasetError("dataset grammar is generated, not read: leave --data-dir out")
        return builders.Grammar(config or "30k", root)
    if name == "multi30k":
        return builders.Multi30k(root, None if data_dir is None else Path(data_dir))
    return wmt.BUILDERS[name](config="-".join(fitting[0]), data_dir=root)


@contextlib.contextmanager
def _nameless_users() -> Iterator[None]:
    """Let etils ask for the owner of a file where that user has no name, as in a container."""
    named = pwd.getpwuid

    def getpwuid(uid):
        try:
            return named(uid)
        except KeyError:
            return pwd.struct_passwd((str(uid), "", uid, uid, "", "/", ""))

    pwd.getpwuid = getpwuid
    try:
        yield
    finally:
        pwd.getpwuid = named


def _prepare(builder: tfds.core.DatasetBuilder, data_dir: str | None) -> None:
    options = {}
    with contextlib.ExitStack() as stack:
        # It prints to standard output, which belongs to results.
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(_nameless_users())
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        try:
            if builder.name in wmt.PAIRS:
                options["manual_dir"] = data_dir
                options["extract_dir"] = stack.enter_context(
                    wmt.unpacked_archives(builder, data_dir)
                )
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(**options),
                # Of its other formats, parquet loses rows without TensorFlow and tfrecord needs it.
                file_format="array_record",
            )
        except tfds.download.DownloadError as error:
            raise DatasetError(f"{builder.name} cannot be downloaded: {error}") from None
