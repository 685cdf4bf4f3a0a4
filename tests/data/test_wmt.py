"""WMT from archives of the real names and layout, in small, read by tensorflow-datasets itself."""

import gzip
import io
import sys
import tarfile

import pytest
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.translate import wmt

from transformer_jax.data.text import TextError
from transformer_jax.data.wmt import BUILDERS
from transformer_jax.errors import UserError


def sgm(language, year):
    lines = [f'<seg id="{i}">{language} {year} {i}</seg>' for i in range(1, 6)]
    return "\n".join([f'<refset trglang="{language}">', "<doc>", *lines, "</doc>", "</refset>", ""])


def archive(path, files):
    mode = "w:gz" if path.suffix == ".tgz" else "w"
    with tarfile.open(path, mode) as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            data = text if isinstance(text, bytes) else text.encode()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def bitext(prefix, language, count, *, packed=False):
    files = {}
    for side in (language, "en"):
        text = "".join(f"{side} {prefix} {i}\n" for i in range(count)).encode()
        if packed:
            files[f"{prefix}.{side}.gz"] = gzip.compress(text)
        else:
            files[f"{prefix}.{side}"] = text
    return files


@pytest.fixture
def archives(tmp_path, monkeypatch):
    return write_archives(tmp_path, monkeypatch)


def write_archives(tmp_path, monkeypatch):
    """WMT's archives in small: the same names and the same files inside; and their checksums."""
    folder = tmp_path / "wmt"
    folder.mkdir()
    contents = {
        "training-parallel-europarl-v7.tgz": {
            **bitext("training/europarl-v7.de-en", "de", 60),
            **bitext("training/europarl-v7.fr-en", "fr", 50),
        },
        "training-parallel-commoncrawl.tgz": {
            **bitext("commoncrawl.de-en", "de", 30),
            **bitext("commoncrawl.fr-en", "fr", 20),
        },
        "training-parallel-nc-v9.tgz": {
            **bitext("training/news-commentary-v9.de-en", "de", 10),
            **bitext("training/news-commentary-v9.fr-en", "fr", 9),
        },
        "training-parallel-nc-v11.tgz": bitext(
            "training-parallel-nc-v11/news-commentary-v11.de-en", "de", 8
        ),
        "training-parallel-un.tgz": bitext("un/undoc.2000.fr-en", "fr", 7),
        "training-giga-fren.tar": bitext("giga-fren.release2.fixed", "fr", 6, packed=True),
        "dev.tgz": {
            **bitext("dev/newstest2013", "de", 2),
            **bitext("dev/newstest2013", "fr", 2),
            **{
                f"./dev/newstest{year}-{source}en-{kind}.{language}.sgm": sgm(language, year)
                for year in (2014, 2015, 2016)
                for source in ("de", "fr")
                for kind, language in (("src", source), ("ref", "en"))
            },
        },
    }
    on_record = dict(checksums.get_all_url_infos())
    for name, files in contents.items():
        archive(folder / name, files)
        urls = [url for url in on_record if url.endswith(f"/{name}")]
        assert urls
        for url in urls:
            on_record[url] = checksums.compute_url_info(folder / name)
    monkeypatch.setattr(checksums, "get_all_url_infos", lambda: on_record)
    for builder in BUILDERS.values():
        monkeypatch.setattr(builder, "url_infos", on_record)
    return folder


@pytest.mark.parametrize(
    "name, direction, counts",
    [
        ("wmt14_translate", "en-de", (60 + 30 + 10, 2, 5)),
        ("wmt14_translate", "fr-en", (50 + 20 + 9 + 7 + 6, 2, 5)),
        ("wmt16_translate", "de-en", (60 + 30 + 8, 5, 5)),
    ],
)
def test_wmt_from_archives(
    load, archives, tmp_path, monkeypatch, name, direction, counts, prepared_files
):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    splits = load(name, direction, archives)
    assert tuple(len(splits[name]) for name in ("train", "validation", "test")) == counts
    source, target = direction.split("-")
    for split in splits.values():
        for left, right in split:
            assert left.startswith(f"{source} ")
            assert right == left.replace(f"{source} ", f"{target} ", 1)
    assert not list((tmp_path / "cache").rglob("*.sgm"))  # what was unpacked is gone
    assert "tensorflow" not in sys.modules
    # The other direction is prepared with it.
    before = prepared_files()
    reverse = load(name, f"{target}-{source}", archives)
    assert next(iter(reverse["test"]))[0].startswith(f"{target} ")
    assert prepared_files() == before


def test_wmt_with_missing_or_other_archives(load, archives, tmp_path, prepared_files):
    (archives / "dev.tgz").rename(tmp_path / "dev.tgz")
    with pytest.raises(UserError, match=r"wmt lacks dev.tgz: get http.*/dev.tgz, or leave"):
        load("wmt14_translate", "en-de", archives)
    (archives / "dev.tgz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match=r"dev.tgz in .* is not the archive of http.* SHA-256"):
        load("wmt14_translate", "en-de", archives)
    assert not prepared_files()


def test_wmt_archive_without_its_files(load, archives, tmp_path, monkeypatch):
    archive(archives / "dev.tgz", {"dev/newstest2013.de": "x"})
    on_record = dict(checksums.get_all_url_infos())
    for url in on_record:
        if url.endswith("/dev.tgz"):
            on_record[url] = checksums.compute_url_info(archives / "dev.tgz")
    monkeypatch.setattr(checksums, "get_all_url_infos", lambda: on_record)
    with pytest.raises(UserError, match=r"dev.tgz holds no dev/newstest2013.en, dev/newstest2014"):
        load("wmt14_translate", "en-de", archives)
    assert not list((tmp_path / "cache").rglob("*.sgm"))


def test_wmt_without_network_or_archives(load, monkeypatch):
    for part in wmt.DATASET_MAP.values():
        monkeypatch.setattr(part, "_urls", ("http://127.0.0.1:9/a.tgz",))
    with pytest.raises(TextError, match="cannot be reached"):
        load("wmt14_translate", "en-de")
