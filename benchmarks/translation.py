"""Throughput and memory of `transformer-jax translate` over 100,000 lines: both should stay flat.

    python -m benchmarks.translation --run-dir runs/demo/run
    python -m benchmarks.translation --run-dir runs/demo/run --lines 20000

`make demo` makes such a run. The lines are different sentences of the embedded grammar. After
every tenth of them: lines a second since the tenth before, by the clock and by the processor, and
the resident size of the process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from transformer_jax.data.grammar.corpus import examples


def resident(pid: int) -> float:
    """Megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor(pid: int) -> float:
    """Seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--beam-size", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "in"
        with text.open("w", encoding="utf-8") as file:
            file.writelines(f"{e.english}\n" for e in examples("train", arguments.lines))
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "transformer_jax.cli", "translate", "--input", str(text)),
                *("--run-dir", arguments.run_dir, "--beam-size", str(arguments.beam_size)),
            ],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        tenths = []
        clock, busy = time.perf_counter(), 0.0
        print(f"{'lines':>8} {'a second':>9} {'a CPU second':>13} {'megabytes':>10}")
        for number, _ in enumerate(process.stdout, 1):
            if number * 10 % arguments.lines:
                continue
            lines, now, used = arguments.lines / 10, time.perf_counter(), processor(process.pid)
            row = {
                "lines": number,
                "lines_per_second": lines / (now - clock),
                "lines_per_cpu_second": lines / (used - busy),
                "megabytes": resident(process.pid),
            }
            clock, busy = now, used
            tenths.append(row)
            print("{:8} {:9.0f} {:13.0f} {:10.0f}".format(*row.values()), flush=True)
        if process.wait() or number != arguments.lines:
            sys.exit(f"{number} of {arguments.lines} lines came out")
    print(json.dumps(tenths))


if __name__ == "__main__":
    main()
