"""WMT's archives, unpacked for tensorflow-datasets, which would need TensorFlow to do it."""

import contextlib
import itertools
import logging
import os
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.translate import wmt

from transformer_jax.data.builders import check_connection
from transformer_jax.errors import UserError

__all__ = ["PAIRS", "WmtError", "unpacked"]

log = logging.getLogger(__name__)

# Language pairs by dataset, as tensorflow-datasets names its configurations.
PAIRS = {
    "wmt14_translate": (("de", "en"), ("fr", "en")),
    "wmt16_translate": (("de", "en"),),
}


class WmtError(UserError):
    """An archive that is missing or is not what it should be; the message names it."""


@contextlib.contextmanager
def unpacked(builder: tfds.core.DatasetBuilder, data_dir: str | None) -> Iterator[str]:
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
    if data_dir is not None:
        _check_present(Path(data_dir), files)
    else:
        check_connection(next(iter(files)))
    downloads = Path(builder.data_path).parents[2] / "downloads"
    manager = tfds.download.DownloadManager(
        download_dir=downloads, manual_dir=data_dir, dataset_name=builder.name
    )
    target = downloads / f"unpacked.{builder.name}.{os.getpid()}"
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
                if name in wanted and member.isfile():
                    member.name = name
                    tar.extract(member, folder, filter="data")
                    found.add(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise WmtError(f"{archive} cannot be unpacked: {error}") from None
    if missing := wanted - found:
        raise WmtError(f"{archive} holds no {', '.join(sorted(missing))}: it is another archive")
