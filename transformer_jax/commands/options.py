"""Options that several commands take, each described once."""

from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["Checkpoint", "ConfigFile", "Preset", "RunDir"]

RunDir = Annotated[Path, tyro.conf.arg(help="Folder of a trained run.")]
Checkpoint = Annotated[
    str,
    tyro.conf.arg(help="averaged (the newest where there is no average), best, last, or a step."),
]
Preset = Annotated[
    str,
    tyro.conf.arg(
        help="Configuration to start from: tiny, multi30k, parsing, base, big, table3-ROW (as "
        "table3-B-dk-16)."
    ),
]
ConfigFile = Annotated[
    Path | None,
    tyro.conf.arg(
        help="Instead of a preset: a run's config.json, or what --print-config printed.",
        name="config",
    ),
]
