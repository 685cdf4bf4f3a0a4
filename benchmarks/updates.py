"""The first updates of a job from its start, compilation counted: ours beside eole's.

    python -m benchmarks.updates --train train.en train.de --eole eole-venv/bin/python
    python -m benchmarks.updates --train train.en train.de --updates 100

Both read the same tokens, which spaces divide, with one vocabulary, in batches of at most 4,096
tokens; the model is that of preset multi30k, in float32. Every job is a process, whose whole life
is timed, and ends with a checkpoint. Ours prepares the text and compiles anew; a second start finds
both in its cache. eole's vocabulary is made before its time begins. eole 0.6 wants a virtual
environment of its own; without --eole ours is measured alone.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.comparison import (
    OURS,
    THREADS,
    Times,
    make_parser,
    publish_comparison,
    times_table,
)
from experiments.ledger import Provenance
from transformer_jax.data.text import read_lines
from transformer_jax.errors import UserError
from transformer_jax.terminal import run_program

__all__ = ["main"]

TOKENS, VOCABULARY = 4096, 12_000


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--train", type=Path, nargs=2, required=True, help="source and target")
    parser.add_argument("--eole", type=Path, help="Python of an environment that has eole")
    parser.add_argument("--updates", type=int, default=500)
    arguments = parser.parse_args()
    for path in arguments.train:
        if not path.exists():
            raise UserError(f"--train {path} does not exist: give two files of lines")
    source, target = arguments.train
    eole = f" --eole {arguments.eole}" if arguments.eole else ""
    where = Provenance.here(
        f"python -m benchmarks.updates --train {source} {target}{eole} "
        f"--updates {arguments.updates} --rounds {arguments.rounds}"
    )
    begin = time.perf_counter()
    seconds: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            jobs = [(OURS, _ours, "first"), (f"{OURS}, second start", _ours, "second")]
            if arguments.eole:
                _prepare_eole(folder, arguments)
                jobs.append(("eole", _eole, "train"))
            for name, job, word in jobs:
                start = time.perf_counter()
                job(folder, arguments, word)
                seconds.setdefault(name, []).append(time.perf_counter() - start)
                print(name, round(seconds[name][-1], 1), flush=True)
    times = {name: Times(None, each) for name, each in seconds.items()}
    title = f"{arguments.updates} updates of at most {TOKENS:,} tokens, {THREADS} threads"
    publish_comparison(
        "updates",
        f"A job's start: {title}",
        where.with_duration(time.perf_counter() - begin),
        [times_table(title, times)],
        "nothing" if arguments.eole else "eole, for which no environment was given",
        times,
        arguments.results_dir,
    )


def _ours(folder: Path, arguments, name: str) -> None:
    _run(
        [
            *(sys.executable, "-m", "transformer_jax", "train", "--preset", "multi30k"),
            *("--train", *arguments.train, "--vocabulary", "whitespace"),
            *("--vocab-size", VOCABULARY, "--batch-tokens", TOKENS, "--run-dir", folder / name),
            *("--steps", arguments.updates, "--checkpoint-every", arguments.updates),
            *("--evaluate-every", arguments.updates, "--average-last", 1),
            *("--accumulation-steps", 1),  # the preset has two batches an update
        ],
        TRANSFORMER_JAX_CACHE=str(folder / "cache"),
        NPROC=str(THREADS),
    )


def _prepare_eole(folder: Path, arguments) -> None:
    source, target = (str(path.absolute()) for path in arguments.train)
    longest = max(len(line.split()) for path in (source, target) for line in read_lines(path))
    settings = {
        "seed": 1,
        "save_data": str(folder / "data"),
        "overwrite": True,
        "share_vocab": True,
        "src_vocab": str(folder / "vocabulary"),
        "tgt_vocab": str(folder / "vocabulary"),
        "src_vocab_size": VOCABULARY,
        "tgt_vocab_size": VOCABULARY,
        "data": {"corpus": {"path_src": source, "path_tgt": target, "transforms": []}},
        "training": {
            "model_path": str(folder / "eole"),
            "world_size": 0,
            "gpu_ranks": [],
            "compute_dtype": "fp32",
            "use_amp": False,
            "batch_type": "tokens",
            "batch_size": TOKENS,
            "normalization": "tokens",
            "accum_count": [1],
            "accum_steps": [0],
            "num_workers": 0,
            "bucket_size": 262_144,
            "train_steps": arguments.updates,
            "save_checkpoint_steps": arguments.updates,
            "valid_steps": 10 * arguments.updates,
            "optim": "adam",
            "adam_beta2": 0.98,
            "learning_rate": 2.0,
            "warmup_steps": 4000,
            "decay_method": "noam",
            "max_grad_norm": 0,
            "label_smoothing": 0.1,
            "dropout": [0.3],
            "dropout_steps": [0],
            "attention_dropout": [0.0],
            "param_init_method": "xavier_uniform",
        },
        "model": {
            "architecture": "transformer",
            "hidden_size": 128,
            "layers": 4,
            "heads": 4,
            "transformer_ff": 256,
            "share_embeddings": True,
            "share_decoder_embeddings": True,
            "embeddings": {
                "word_vec_size": 128,
                "position_encoding_type": "SinusoidalInterleaved",
                "n_positions": longest + 2,
            },
        },
    }
    # JSON is YAML, too.
    (folder / "eole.yaml").write_text(json.dumps(settings), encoding="utf-8")
    _eole(folder, arguments, "build_vocab", "--n_sample", -1)


def _eole(folder: Path, arguments, *words) -> None:
    program = [arguments.eole.absolute(), "-m", "eole.bin.main", words[0]]
    _run(
        [*program, "--config", folder / "eole.yaml", *words[1:]],
        OMP_NUM_THREADS=str(THREADS),
    )


def _run(command: list, **environment: str) -> None:
    """Run a program to its end; UserError with its last lines where it fails."""
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        last = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise UserError(f"{' '.join(map(str, command[:4]))} ended with {done.returncode}: {last}")


if __name__ == "__main__":
    run_program(main)
