"""WMT's archives, unpacked for tensorflow-datasets, which would need TensorFlow to do it."""

import contextlib
import functools
import itertools
import logging
import os
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets import translate
from tensorflow_datasets.translate import wmt

from transformer_jax.data.builders import check_connection, shard_writers
from transformer_jax.errors import UserError

__all__ = ["BUILDERS", "PAIRS", "WmtError", "unpacked_archives"]

log = logging.getLogger(__name__)

# Language pairs by dataset, as tensorflow-datasets names its configurations.
PAIRS = {
    "wmt14_translate": (("de", "en"), ("fr", "en")),
    "wmt16_translate": (("de", "en"),),
}


class WmtError(UserError):
    """An archive that is missing or is not what it should be; the message names it."""


class _UnshuffledBuilder(tfds.core.ShardBasedBuilder):
    """Writes what a builder of tensorflow-datasets reads, as it comes.

    Its own base shuffles, and needs TensorFlow to do so beyond a gigabyte.
    """

    def _shard_iterators_per_split(self, dl_manager):
        found = {}
        for split in self._split_generators(dl_manager):
            examples = functools.partial(self._generate_examples, **split.gen_kwargs)
            found[split.name] = shard_writers(sum(1 for _ in examples()), examples())
        return found


class Wmt14Translate(_UnshuffledBuilder, translate.Wmt14Translate, skip_registration=True):  # type: ignore[call-arg]
    """WMT 2014, under the name that it has in tensorflow-datasets already."""


class Wmt16Translate(_UnshuffledBuilder, translate.Wmt16Translate, skip_registration=True):  # type: ignore[call-arg]
    """WMT 2016, likewise."""


BUILDERS = {builder.name: builder for builder in (Wmt14Translate, Wmt16Translate)}


@contextlib.contextmanager
def unpacked_archives(builder: tfds.core.DatasetBuilder, data_dir: str | None) -> Iterator[str]:
    """A folder where `builder` finds its archives unpacked, for as long as it is needed.

    Archives come from `data_dir`, under their own names, or are downloaded where that is None.
    Their SHA-256 must be the one that tensorflow-datasets has on record. Only the files of the
    language pair are unpacked.
    """
    language, _ = builder.builder_config.language_pair
    files: dict[str, set[str]] = defaultdict(set)
    for name in itertools.chain(*builder.subsets.values()):
        part = wmt.DATASET_MAP[name]
        [url] = part.get_url(language)
        files[url] |= set(part.get_path(language))
    downloads = Path(builder.data_path).parents[2] / "downloads"
    if data_dir is not None:
        _check_present(Path(data_dir), files)
    else:
        check_connection(next(iter(files)), downloads / builder.name)
    manager = tfds.download.DownloadManager(
        download_dir=downloads, manual_dir=data_dir, dataset_name=builder.name
    )
    target = downloads / f"unpacked.{builder.name}.{language}"
    shutil.rmtree(target, ignore_errors=True)  # of a job that was killed
    try:
        for url, wanted in files.items():
            log.info("unpacking %s", url.rpartition("/")[2])
            try:
                archive = manager.download(url)
            except tfds.download.download_manager.NonMatchingChecksumError:
                raise WmtError(
                    f"{url.rpartition('/')[2]} in {data_dir or downloads} is not the archive of "
                    f"{url}: its SHA-256 is another; get it again"
                ) from None
            method = tfds.download.Resource(path=archive).extract_method.name
            _unpack(Path(archive), wanted, target / f"{method}.{Path(archive).name}")
        yield str(target)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _check_present(folder: Path, urls) -> None:
    missing = [url for url in urls if not (folder / url.rpartition("/")[2]).is_file()]
    if missing:
        raise WmtError(
            f"{folder} lacks {', '.join(url.rpartition('/')[2] for url in missing)}: get "
            f"{' and '.join(missing)}, or leave --data-dir out to have all of them downloaded"
        )


def _unpack(archive: Path, wanted: set[str], folder: Path) -> None:
    """The wanted files of a tar archive."""
    found = set()
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = os.path.normpath(member.name)
                content = tar.extractfile(member) if name in wanted else None
                if content is not None:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    with content, (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
                    found.add(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise WmtError(f"{archive} cannot be unpacked: {error}") from None
    if missing := wanted - found:
        raise WmtError(f"{archive} holds no {', '.join(sorted(missing))}: it is another archive")
