"""Time and memory of preparing a large corpus: `transformer-jax prepare` on synthetic text.

    python -m benchmarks.preparation                      4.5 million pairs, as WMT14 en-de has
    python -m benchmarks.preparation --pairs 500000       for the comparison: memory should not grow

Words follow Zipf's law over 400,000 types, 25 a sentence, so that the vocabulary has as much to do
as on real text. Memory is the peak resident size of the process that prepares.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from transformer_jax.files import replaced_folder

TYPES, LENGTH, BLOCK = 400_000, 25, 20_000


def write_corpus(folder: Path, pairs: int) -> None:
    """train.en and train.de of so many lines."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlcumwfgypbvk"))
    with replaced_folder(folder) as partial:
        for language in ("en", "de"):
            lengths = rng.integers(2, 12, TYPES)
            words = ["".join(rng.choice(letters, n)) for n in lengths]
            with (partial / f"train.{language}").open("w", encoding="utf-8") as file:
                for start in range(0, pairs, BLOCK):
                    count = min(BLOCK, pairs - start)
                    drawn = (rng.zipf(1.2, (count, LENGTH)) - 1) % TYPES
                    sizes = rng.integers(1, 2 * LENGTH, count).clip(max=LENGTH)
                    file.writelines(
                        " ".join(words[i] for i in row[:n]) + "\n" for row, n in zip(drawn, sizes)
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=4_500_000)
    parser.add_argument("--folder", type=Path, help="keep the text and what is prepared here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        text = folder / f"text-{arguments.pairs}"
        if not text.exists():
            write_corpus(text, arguments.pairs)
        for old in ("cache", f"corpus-{arguments.pairs}"):  # or nothing would be prepared
            shutil.rmtree(folder / old, ignore_errors=True)
        start = time.perf_counter()
        command = [
            sys.executable, "-m", "transformer_jax.cli", "prepare", "--preset", "base",
            "--dataset", "text", "--direction", "en-de", "--data-dir", text,
            "--cache-dir", folder / "cache", "--output", folder / f"corpus-{arguments.pairs}",
        ]  # fmt: skip
        subprocess.run([str(part) for part in command], check=True, env=os.environ)
        seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        json.dumps(
            {
                "pairs": arguments.pairs,
                "seconds": round(seconds),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime),
                "peak_megabytes": usage.ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
