"""Read configurations, vocabularies, checkpoints and foreign models that were edited at random.

    python -m tests.fuzzing KIND FOLDER EDITS SEED      KIND: one of KINDS

A process of its own, which may crash, and whose every act Python reports to it. Prints how many
edits were refused; anything but UserError or a sound result ends it.
"""

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import tracemalloc  # noqa: F401  (a warning would import it while that is watched)
from pathlib import Path

import jax
import numpy as np

from tests.weights.folders import MAKERS
from transformer_jax import RunConfig, presets
from transformer_jax.data.corpus import write_corpus
from transformer_jax.data.grammar.corpus import examples
from transformer_jax.data.vocabulary import load_vocabulary, train_vocabulary
from transformer_jax.devices.layout import single_device_template
from transformer_jax.errors import UserError
from transformer_jax.run.checkpoints import Checkpoints
from transformer_jax.run.folder import Run
from transformer_jax.weights import export_model, import_model
from transformer_jax.weights.imports import FORMATS, recognize_format

# A single read takes milliseconds.
SECONDS = 20
# Of Python's audit events those that run something or change something.
FORBIDDEN = {
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class",
    "socket.connect", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "shutil.rmtree", "exec",
    "import",
}  # fmt: skip


def edited(content: bytes, rng: random.Random) -> bytes:
    """A copy with a few bytes flipped, set, cut out, doubled or put in."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        how, place = rng.randrange(5), rng.randrange(len(data) + 1)
        if how == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif how == 1 and place < len(data):
            data[place] = rng.choice(b'0123456789"[]{},:-.eE\\/_x')
        elif how == 2:
            del data[place : place + rng.randrange(1, 50)]
        elif how == 3:
            data[place:place] = data[place : place + rng.randrange(1, 50)]
        else:
            data[place:place] = rng.randbytes(rng.randrange(1, 20))
    return bytes(data)


def configuration(folder: Path):
    vocabulary = train_vocabulary("whitespace", ["a b c"], 100)
    config = presets.run_config("tiny")
    model = presets.tiny(vocab_size=len(vocabulary))
    corpus = write_corpus(folder / "corpus", [("a b", "c")], vocabulary, sentences_per_line=1)
    Run.create(folder, RunConfig(model, config.optimizer), corpus)
    return [folder / "config.json"], lambda: Run.open(folder)


def vocabulary(kind: str):
    def make(folder: Path):
        lines = [line for e in examples("train", 500) for line in (e.english, e.german)]
        train_vocabulary(kind, lines, 600).save(folder)

        def read():
            found = load_vocabulary(folder)
            found.decode(found.encode("A dog runs.\0 \u2581 <s>"))
            found.decode(range(len(found))).encode()
            found.to_bytes()

        return list(folder.iterdir()), read

    return make


def checkpoint(folder: Path):
    values = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    tree = {"w": jax.numpy.asarray(values), "b": jax.numpy.arange(3.0)}
    checkpoints = Checkpoints(folder)
    checkpoints.save(7, {"params": tree}, {"run": "x"}, {"loss": 1.0})
    checkpoints.close()
    template = {"params": single_device_template(tree)}

    def read():
        found, _ = Checkpoints(folder, read_only=True).restore(7, template)
        for name in tree:  # what is not refused is what was saved
            np.testing.assert_array_equal(found["params"][name], tree[name])

    return [path for path in folder.rglob("*") if path.is_file()], read


def foreign(name: str):
    def make(folder: Path):
        path = MAKERS[name](folder)
        read = FORMATS[recognize_format(path)].read
        files = [each for each in folder.iterdir() if each.is_file()]
        return files, lambda: read(path)

    return make


def single_file(folder: Path):
    """A model as one file; its vocabulary is read through a temporary folder."""
    tempfile.tempdir = str(folder / "temporary")
    Path(tempfile.tempdir).mkdir()
    (folder / "foreign").mkdir()
    import_model(MAKERS["ctranslate2"](folder / "foreign"), folder / "run")
    path = folder / "model.safetensors"
    export_model(folder / "run", "safetensors", path)
    saved = jax.tree.leaves(FORMATS["safetensors"].read(path).params)

    def read():  # what is not refused is what was saved
        for leaf, other in zip(jax.tree.leaves(FORMATS["safetensors"].read(path).params), saved):
            np.testing.assert_array_equal(leaf, other)

    return [path], read


KINDS = {
    "configuration": configuration,
    "whitespace": vocabulary("whitespace"),
    "bpe": vocabulary("bpe"),
    "checkpoint": checkpoint,
    **{name: foreign(name) for name in MAKERS},
    "single file": single_file,
}


def is_temporary(arguments) -> bool:
    """Whether an event is about something inside a temporary folder that `tempfile` was given."""
    if tempfile.tempdir is None or not isinstance(arguments[0], str):
        return False
    number = arguments[-1] if isinstance(arguments[-1], int) else -1
    folder = f"/proc/self/fd/{number}" if number >= 0 else "."
    inside = os.path.realpath(os.path.join(os.path.realpath(folder), arguments[0]))
    return inside.startswith(tempfile.tempdir + os.sep)


def fuzz(files: list[Path], read, edits: int, seed: int) -> int:
    """Edit one of the files, `read`, bring it back; how often was that refused?"""
    rng, refused = random.Random(seed), 0
    contents = {path: path.read_bytes() for path in files}
    events: list[str] | None = None

    def hook(event, arguments):
        if events is None:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if (event in FORBIDDEN or writes) and not is_temporary(arguments):
            events.append(f"{event} {arguments!r:.300}")

    def late(number, frame):
        raise TimeoutError(f"after {SECONDS} s it is still being read")

    for path in files:  # what is imported late is imported now, and for what is damaged too
        read()
        for content in (b"", contents[path][: len(contents[path]) // 2], b"{}", b"[1]"):
            path.write_bytes(content)
            with contextlib.suppress(UserError):
                read()
        path.write_bytes(contents[path])
    sys.addaudithook(hook)
    signal.signal(signal.SIGALRM, late)
    for number in range(edits):
        path = rng.choice(files)
        path.write_bytes(edited(contents[path], rng))
        signal.alarm(SECONDS)
        events = []
        try:
            read()
        except UserError:
            refused += 1
        except BaseException:
            print(f"edit {number} of seed {seed}, of {path}", file=sys.stderr)
            raise
        found, events = events, None
        signal.alarm(0)
        path.write_bytes(contents[path])
        if found:
            sys.exit(f"edit {number} of seed {seed}, of {path}: {found}")
    return refused


def main() -> None:
    kind, folder, edits, seed = sys.argv[1:]
    Path(folder).mkdir()
    files, read = KINDS[kind](Path(folder))
    print(json.dumps({"refused": fuzz(files, read, int(edits), int(seed))}))


if __name__ == "__main__":
    main()
