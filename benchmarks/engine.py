"""CTranslate2 in a process of its own.

Two engines in one process slow each other: float32 took 0.25 s beside ours alone, and 0.43 to 0.52
with an engine in int8 that was only waiting (64 sentences of 32 tokens, beam 4, 2 cores).
"""

import multiprocessing
from pathlib import Path
from typing import Any

from benchmarks.comparison import THREADS

__all__ = ["Engine"]


class Engine:
    """An engine of a folder that `export` wrote, with THREADS threads."""

    def __init__(self, folder: Path, compute_type: str):
        """Start the process, which loads the engine; the first call waits for it.

        Args:
            folder: The folder.
            compute_type: As CTranslate2 has it, "float32" or "int8".
        """
        context = multiprocessing.get_context("spawn")
        self._calls, served = context.Pipe()
        arguments = (served, str(folder), compute_type)
        context.Process(target=_serve, args=arguments, daemon=True).start()
        served.close()  # so that the process sees when the engine is no longer used

    def translate(self, tokens: list[list[str]], **options: Any) -> list[list[str]]:
        """The best translations of sentences, as tokens; options as `translate_batch` has them."""
        return self._call("translate", (tokens,), options)

    def score(
        self, sources: list[list[str]], targets: list[list[str]], **options: Any
    ) -> list[list[float]]:
        """Log-probabilities of each target's tokens; options as `score_batch` has them."""
        return self._call("score", (sources, targets), options)

    def _call(self, method: str, arguments: tuple, options: dict[str, Any]) -> Any:
        self._calls.send((method, arguments, options))
        return self._calls.recv()


def _serve(calls: Any, folder: str, compute_type: str) -> None:
    """Answer calls until nobody can make any."""
    import ctranslate2

    engine = ctranslate2.Translator(
        folder, compute_type=compute_type, inter_threads=1, intra_threads=THREADS
    )
    while True:
        try:
            method, arguments, options = calls.recv()
        except EOFError:
            return
        if method == "translate":
            results = engine.translate_batch(*arguments, **options)
            calls.send([each.hypotheses[0] for each in results])
        else:
            scores = engine.score_batch(*arguments, **options)
            calls.send([each.log_probs for each in scores])
