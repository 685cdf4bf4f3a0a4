"""Which files a treebank is: one, those of a folder, or those of sections of a folder."""

import hashlib
import re
from os import PathLike
from pathlib import Path

from transformer_jax.data.text import TextError, digest

__all__ = ["digest_trees", "has_trees", "tree_files"]


def tree_files(path: str | PathLike) -> list[Path]:
    """List the files of a treebank.

    Args:
        path: A file; a folder, of which these are the files .mrg in it and below it; or sections of
            a folder of folders, as wsj/02-21 where wsj/02 to wsj/21 are.

    Raises:
        TextError: There is nothing at the path, or a section is missing.
    """
    path = Path(path)
    sections = re.fullmatch(r"(\d\d)-(\d\d)", path.name)
    folders = [path]
    if sections and not path.exists():
        numbers = range(int(sections[1]), int(sections[2]) + 1)
        folders = [path.parent / f"{number:02}" for number in numbers] or [path]
        for folder in folders:
            if not folder.is_dir():
                raise TextError(f"{path}: there is no folder {folder}: give sections that exist")
    if not folders[0].exists():
        raise TextError(f"{path}: No such file or directory")
    return [
        file
        for folder in folders
        for file in (sorted(folder.rglob("*.mrg")) if folder.is_dir() else [folder])
    ]


def digest_trees(path: str | PathLike) -> str:
    """SHA-256 of a treebank: that of its file, or of those of its files."""
    digests = [digest(file) for file in tree_files(path)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def has_trees(path: str | PathLike) -> bool:
    """Whether there are files of trees at a path."""
    try:
        return bool(tree_files(path))
    except TextError:
        return False
