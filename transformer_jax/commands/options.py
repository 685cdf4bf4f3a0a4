"""Options that several commands take, each described once."""

from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["Checkpoint", "ConfigFile", "Preset", "RunDir"]


def _help(text: str, **options):
    return tyro.conf.arg(help=text, **options)


RunDir = Annotated[Path, _help("Folder of a trained run.")]
Checkpoint = Annotated[
    str, _help("averaged (the newest where there is no average), best, last, or a step.")
]
Preset = Annotated[
    str,
    _help(
        "Configuration to start from: tiny, multi30k, base, big, table3-ROW (as table3-B-dk-16)."
    ),
]
ConfigFile = Annotated[
    Path | None,
    _help(
        "Instead of a preset: a run's config.json, or what --print-config printed.", name="config"
    ),
]
