"""Our own tensorflow-datasets: the embedded corpus, parallel text files, and Multi30k."""

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import ClassVar

import numpy as np
import requests
import tensorflow_datasets as tfds

from transformer_jax.data.compression import ENDINGS, decompressed
from transformer_jax.data.grammar import corpus
from transformer_jax.data.text import TextError, TextFiles, digest, read_tsv

__all__ = ["Grammar", "Multi30k", "ParallelFiles", "check_connection", "shard_writers"]

VERSION = tfds.core.Version("1.0.0")
# Examples in one file.
EXAMPLES_PER_SHARD = 250_000


class _Builder(tfds.core.ShardBasedBuilder):
    """A builder outside tensorflow-datasets' own folders.

    Its base writes the examples as they come: in their order, without holding them in memory, where
    the usual base would shuffle and need TensorFlow beyond a gigabyte.
    """

    VERSION = VERSION
    features: tfds.features.FeaturesDict

    def __init__(self, config: str, data_dir: Path):
        super().__init__(config=tfds.core.BuilderConfig(name=config), data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=self.features)

    def _shard_iterators_per_split(self, dl_manager):
        splits = self._splits(dl_manager).items()
        return {
            split: shard_writers(count, enumerate(examples)) for split, (count, examples) in splits
        }

    def _splits(self, dl_manager) -> dict[str, tuple[int, Iterator[dict]]]:
        """Split -> how many examples it has, and they; splits are read through in this order."""
        raise NotImplementedError


def shard_writers(count: int, examples: Iterator) -> list[Callable[[], Iterator]]:
    """What writes each shard of `count` examples, one after the other.

    Shards, because a writer of array_record keeps some 400 bytes of each record until it closes.
    """
    return [lambda: itertools.islice(examples, EXAMPLES_PER_SHARD)] * max(
        1, -(-count // EXAMPLES_PER_SHARD)
    )


class Grammar(_Builder):
    """The embedded corpus with its annotations: so many training pairs, 1,000 of each other split.

    Its configuration carries a digest of the grammar's own files, so that a changed grammar is
    another dataset.
    """

    SIZES: ClassVar = {"10k": 10_000, "30k": 30_000, "100k": 100_000, "1m": 1_000_000}
    HELD_OUT = 1000

    def __init__(self, size: str, data_dir: Path):
        if size not in self.SIZES:
            raise TextError(f"grammar has no size {size!r}; it has {', '.join(self.SIZES)}")
        self._size = self.SIZES[size]
        places = tfds.features.Tensor(shape=(None, 2), dtype=np.int32)
        self.features = tfds.features.FeaturesDict(
            {
                "en": tfds.features.Text(),
                "de": tfds.features.Text(),
                "alignment": places,
                "antecedents": places,
                # Labels of spans, and tags, each as one text: lists of texts take long to write.
                "spans": places,
                "span_labels": tfds.features.Text(),
                "tags": tfds.features.Text(),
            }
        )
        super().__init__(f"{size}-{_grammar_digest()[:12]}", data_dir)

    def _splits(self, dl_manager):
        wanted = {"train": self._size} | dict.fromkeys(corpus.SPLITS[1:], self.HELD_OUT)
        stream = corpus.stream()
        # What the stream gives of later splits while an earlier one is written.
        kept: dict[str, deque[corpus.Example]] = {split: deque() for split in wanted}

        def draw(split: str) -> Iterator[dict]:
            for _ in range(wanted[split]):
                while not kept[split]:
                    name, example = next(stream)
                    if len(kept[name]) < wanted[name]:
                        kept[name].append(example)
                yield _stored(kept[split].popleft())

        return {split: (count, draw(split)) for split, count in wanted.items()}


def _stored(example: corpus.Example) -> dict:
    return {
        "en": example.english,
        "de": example.german,
        "alignment": _places(example.alignment),
        "antecedents": _places([(part.pronoun, part.noun) for part in example.antecedents]),
        "spans": _places([(start, end) for _, start, end in example.spans]),
        "span_labels": " ".join(label for label, _, _ in example.spans),
        "tags": " ".join(sorted(example.tags)),
    }


def _places(pairs) -> np.ndarray:
    return np.asarray(pairs, np.int32).reshape(-1, 2)


def _grammar_digest() -> str:
    found = hashlib.sha256()
    for file in sorted(resources.files(corpus.__package__).iterdir(), key=lambda file: file.name):
        if file.name.endswith((".py", ".tsv")):
            found.update(file.read_bytes())
    return found.hexdigest()


class ParallelFiles(_Builder):
    """A folder of train.LANGUAGE, validation.LANGUAGE and test.LANGUAGE, or of .tsv; or one .tsv.

    Only the training text must be there. Its configuration is a digest of the files, so that other
    text is another dataset.
    """

    name = "text"
    NAMES: ClassVar = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"),
             "test": ("test",)}  # fmt: skip

    def __init__(self, path: Path, source: str, target: str, data_dir: Path):
        self._languages = source, target
        self._files = self._find(path)
        texts = {language: tfds.features.Text() for language in self._languages}
        self.features = tfds.features.FeaturesDict(texts)
        parts = [
            part for split, files in self._files.items() for part in (split, *map(digest, files))
        ]
        identity = hashlib.sha256(" ".join(parts).encode()).hexdigest()
        super().__init__(f"{source}-{target}-{identity[:16]}", data_dir)

    def _find(self, path: Path) -> dict[str, tuple[Path, ...]]:
        """Split -> its two text files, or its one table."""
        if path.is_file():
            return {"train": (path,)}
        if not path.is_dir():
            raise TextError(f"{path} is neither a folder of texts nor a .tsv file")
        found = {}
        for split, names in self.NAMES.items():
            for name in names:
                pair = [_packed_or_not(path / f"{name}.{end}") for end in self._languages]
                table = _packed_or_not(path / f"{name}.tsv")
                there = [file for file in pair if file.is_file()]
                if len(there) == 1:
                    other = pair[1 - pair.index(there[0])]
                    raise TextError(f"{there[0]} is there but not {other}: give both or neither")
                if there or table.is_file():
                    found[split] = tuple(pair) if there else (table,)
                    break
        if "train" not in found:
            source, target = self._languages
            raise TextError(
                f"{path} holds no training text: neither train.{source} and train.{target} nor "
                "train.tsv, whose first line names the languages of its columns"
            )
        return found

    def _splits(self, dl_manager):
        # Counting finds faults before anything is written.
        return {
            split: (sum(1 for _ in self._examples(files)), self._examples(files))
            for split, files in self._files.items()
        }

    def _examples(self, files: tuple[Path, ...]) -> Iterator[dict]:
        if len(files) == 2:
            pairs = iter(TextFiles(*map(str, files)))
        else:
            pairs = read_tsv(files[0], *self._languages)
        first = next(pairs, None)
        if first is None:
            raise TextError(f"{' and '.join(map(str, files))} hold no lines: fill or remove them")
        for pair in itertools.chain([first], pairs):
            yield dict(zip(self._languages, pair))


def _packed_or_not(path: Path) -> Path:
    """The file of that name, or the packed one of that name and an ending; the former if none is
    there."""
    found = (path.with_name(path.name + ending) for ending in ENDINGS)
    return next((file for file in found if file.is_file()), path)


class Multi30k(_Builder):
    """Captions of Flickr30k in three languages, task 1 of Elliott et al. 2016 and 2017.

    Downloaded from the corpus's repository, or read from a folder that holds the same files,
    packed or not. Either way the SHA-256 of each text is checked.
    """

    LANGUAGES = ("en", "de", "fr")
    URL = (
        "https://raw.githubusercontent.com/multi30k/dataset/"
        "a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw"
    )
    NAMES: ClassVar = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
    SHA256: ClassVar = {
        "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
        "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
        "train.fr": "5925a3c18f1587b6b54b87743106e6e8ab93618edb6f65d19eac0621f853a10d",
        "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
        "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
        "val.fr": "5304e444d842e962b2dda4d816b70b22a1765b15401642b7ca37a67477e708dc",
        "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
        "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
        "test_2016_flickr.fr": "cb3160d69b002bb638e66cc7612fcd56cb0af82eadc9c142dedc438afb885ef6",
    }
    # A file that unpacks to more than this is none of them.
    MAX_BYTES = 1 << 24

    def __init__(self, data_dir: Path, path: Path | None = None):
        self._path = path
        texts = {language: tfds.features.Text() for language in self.LANGUAGES}
        self.features = tfds.features.FeaturesDict(texts)
        super().__init__("task1", data_dir)

    def _splits(self, dl_manager):
        if self._path is None:
            check_connection(self.URL, Path(dl_manager.download_dir) / self.name)
            files = dl_manager.download({name: f"{self.URL}/{name}.gz" for name in self.SHA256})
        else:
            files = {name: self._local(self._path, name) for name in self.SHA256}
        texts = {name: self._read(name, Path(file)) for name, file in files.items()}
        sides = {
            split: [texts[f"{name}.{language}"] for language in self.LANGUAGES]
            for split, name in self.NAMES.items()
        }
        return {
            split: (len(texts[0]), (dict(zip(self.LANGUAGES, lines)) for lines in zip(*texts)))
            for split, texts in sides.items()
        }

    def _local(self, folder: Path, name: str) -> Path:
        """A file of the user's folder; it must hold all of them."""
        file = _packed_or_not(folder / name)
        if not file.is_file():
            raise TextError(
                f"{folder} lacks {name} (or {name}.gz), which {self.URL} has: get it, or leave "
                "--data-dir out to have the corpus downloaded"
            )
        return file

    def _read(self, name: str, file: Path) -> list[str]:
        """The lines of a file that is what it should be."""
        with file.open("rb") as opened, decompressed(opened, file) as text:
            content = text.read(self.MAX_BYTES)
        if hashlib.sha256(content).hexdigest() != self.SHA256[name]:
            if self._path is None:
                # So that the next time it is downloaded again.
                file.unlink()
                file.with_name(f"{file.name}.INFO").unlink(missing_ok=True)
            raise TextError(
                f"{file} is not Multi30k's {name}: its SHA-256 is another; get it again, or read a "
                "text of your own with --dataset text"
            )
        return content.decode().removesuffix("\n").split("\n")


def check_connection(url: str, downloaded: Path) -> None:
    """Raise TextError where a download cannot begin: tensorflow-datasets tries for minutes.

    What is in the folder `downloaded` may be all that is needed.
    """
    if any(downloaded.rglob("*.INFO")):
        return
    try:
        requests.head(url, timeout=10)
    except requests.RequestException as error:
        raise TextError(
            f"{url} cannot be reached ({type(error).__name__}): give the files with --data-dir"
        ) from None
