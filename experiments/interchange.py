"""A trained run in other engines: how far their log-probabilities and translations are from ours.

    python -m experiments.interchange --run-dir runs/demo/run

The run leaves for the engines that are installed of two, transformers' MarianMTModel and
ctranslate2. Pairs of the run's test split are scored by both, and its sources are translated with
greedy search. Where a translation differs, our log-probabilities of both tokens at the first
difference say how near a tie they are. Then the beam: our log-probability of the engine's
translation beside the engine's own.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from experiments.ledger import Cell, Entry, Provenance, Table
from experiments.program import check_positive, make_parser, publish_result
from transformer_jax import Translator
from transformer_jax.decoding.inference import BatchDecoder
from transformer_jax.decoding.options import Search
from transformer_jax.evaluation.bleu import sacrebleu_score
from transformer_jax.run.splits import dataset_splits
from transformer_jax.terminal import run_program
from transformer_jax.weights import export_model
from transformer_jax.weights.ctranslate2 import DTYPES

__all__ = ["Engine", "compare_engine", "first_gap"]

SENTENCES, BEAM, LONGEST = 200, 4, 200


class Engine(NamedTuple):
    """Another engine with a run of ours.

    Attributes:
        score: Token ids of sources and targets -> log-probability of each target, EOS included.
        translate: Token ids of sources, and the beam -> token ids of translations.
    """

    score: Callable[[Sequence[list[int]], Sequence[list[int]]], list[float]]
    translate: Callable[[Sequence[list[int]], int], list[list[int]]]


def hugging_face(translator: Translator, folder: Path) -> Engine:
    """Load a folder of `MarianMTModel`, whose ids of our tokens are ours."""
    import torch
    import transformers

    model = transformers.MarianMTModel.from_pretrained(folder).eval()
    start, padding = model.config.decoder_start_token_id, model.config.pad_token_id

    def score(sources: Sequence[list[int]], targets: Sequence[list[int]]) -> list[float]:
        found = []
        for source, target in zip(sources, targets):
            ended = [*target, 1]
            with torch.no_grad():
                logits = model(
                    input_ids=torch.tensor([[*source, 1]]),
                    decoder_input_ids=torch.tensor([[start, *target]]),
                ).logits[0]
            chosen = logits.double().log_softmax(-1)[torch.arange(len(ended)), torch.tensor(ended)]
            found.append(float(chosen.sum()))
        return found

    def translate(sources: Sequence[list[int]], beam: int) -> list[list[int]]:
        found = []
        for source in sources:
            [ids] = model.generate(
                torch.tensor([[*source, 1]]), num_beams=beam, do_sample=False, max_length=LONGEST
            )
            found.append([row for row in ids[1:].tolist() if row not in (1, padding)])
        return found

    return Engine(score, translate)


def ctranslate2_engine(translator: Translator, folder: Path) -> Engine:
    """Load a folder of CTranslate2."""
    import ctranslate2

    engine = ctranslate2.Translator(str(folder))
    of_source, of_target = translator.vocabularies
    numbers = {token: row for row, token in enumerate(of_target.tokens(range(len(of_target))))}
    never = [[of_target.tokens([row])[0]] for row in (0, 3)]

    def score(sources: Sequence[list[int]], targets: Sequence[list[int]]) -> list[float]:
        found = engine.score_batch(
            [of_source.tokens(ids) for ids in sources], [of_target.tokens(ids) for ids in targets]
        )
        return [sum(each.log_probs) for each in found]

    def translate(sources: Sequence[list[int]], beam: int) -> list[list[int]]:
        found = engine.translate_batch(
            [of_source.tokens(ids) for ids in sources], beam_size=beam, length_penalty=0.6,
            max_decoding_length=LONGEST, suppress_sequences=never,
        )  # fmt: skip
        return [[numbers[token] for token in each.hypotheses[0]] for each in found]

    return Engine(score, translate)


def first_gap(ours: BatchDecoder, source: list[int], mine: list[int], theirs: list[int]) -> float:
    """Compute by how much our token is more probable than theirs where they first differ, in nats.

    Args:
        ours: Our model.
        source: Token ids of the sentence.
        mine: Those of our translation.
        theirs: Those of the other one.
    """
    mine, theirs = [*mine, 1], [*theirs, 1]
    place = next(n for n, (a, b) in enumerate(zip(mine, theirs)) if a != b)
    # What is scored ends where they differ; an end of sentence follows by itself.
    found = ours.score(
        [source] * 2, [ids[:place] + [ids[place]] * (ids[place] != 1) for ids in (mine, theirs)]
    )
    return float(found[0][place] - found[1][place])


def compare_engine(
    ours: BatchDecoder,
    engine: Engine,
    sources: Sequence[list[int]],
    targets: Sequence[list[int]],
    greedy: Sequence[list[int]],
) -> tuple[list[Cell], list[list[int]]]:
    """Compare an engine with our model on the same parameters.

    Args:
        ours: Our model.
        engine: The other one.
        sources: Token ids of sentences.
        targets: Those of their references.
        greedy: Those of our translations with greedy search.

    Returns:
        Largest difference of log-probabilities of references, of the engine's own translations with
        a beam, share of greedy translations that are equal, and the largest `first_gap` of others;
        and the engine's greedy translations.
    """

    def difference(written: Sequence[list[int]]) -> float:
        mine = [float(each.sum()) for each in ours.score(sources, written)]
        return max(abs(a - b) for a, b in zip(mine, engine.score(sources, written)))

    theirs = engine.translate(sources, 1)
    other = [each for each in zip(sources, greedy, theirs) if each[1] != each[2]]
    gap = max((first_gap(ours, *each) for each in other), default=0.0)
    share = 100 * (1 - len(other) / len(sources))
    beam = difference(engine.translate(sources, BEAM))
    return [f"{difference(targets):.1e}", f"{beam:.1e}", share, f"{gap:.1e}"], theirs


def find(run_dir: Path, count: int) -> tuple[list[list[Cell]], list[str]]:
    """Rows of the table, and the engines that are not installed."""
    translator = Translator.load(run_dir)
    ours = BatchDecoder(translator.model, {"params": translator.params})
    of_source, of_target = translator.vocabularies
    lines, references = zip(*list(dataset_splits(run_dir)["test"])[:count])
    sources, targets = of_source.encode_all(lines), of_target.encode_all(references)
    greedy = [list(best[0].ids) for best in ours.translate(sources, Search(method="greedy"))]

    def bleu(written: Sequence[list[int]]) -> float:
        texts = [of_target.decode(ids) for ids in written]
        return sacrebleu_score("BLEU", texts, references).value

    rows: list[list[Cell]] = []
    missing = []
    for name, engine, module, dtypes in (
        ("huggingface", hugging_face, "transformers", ("float32",)),
        ("ctranslate2", ctranslate2_engine, "ctranslate2", DTYPES),
    ):
        if find_spec(module) is None:
            missing.append(module)
            continue
        for dtype in dtypes:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / name
                export_model(run_dir, name, out, dtype=dtype)
                loaded = engine(translator, out)
                found, theirs = compare_engine(ours, loaded, sources, targets, greedy)
            used = f"{module} {version(module)}"
            rows.append([f"{name}, {dtype}", used, count, *found, bleu(theirs)])
    rows.append(["ours", "transformer_jax", count, None, None, None, None, bleu(greedy)])
    return rows, missing


def main() -> None:
    parser = make_parser(__doc__, "runs/interchange")
    parser.add_argument("--run-dir", type=Path, required=True, help="a run on a dataset")
    parser.add_argument("--sentences", type=int, default=SENTENCES, help="of the test split")
    arguments = parser.parse_args()
    check_positive(arguments, "sentences")
    where = Provenance.here(
        f"python -m experiments.interchange --run-dir {arguments.run_dir} "
        f"--sentences {arguments.sentences}"
    )
    start = time.perf_counter()
    rows, missing = find(arguments.run_dir, arguments.sentences)
    columns = [
        "format", "engine", "sentences", "log-probability of a reference, largest difference",
        f"of its own with a beam of {BEAM}", "greedy: equal, %", "largest gap where not, nats",
        "BLEU, greedy",
    ]  # fmt: skip
    lacking = f"; {', '.join(missing)}, which are not installed" if missing else ""
    entry = Entry(
        "interchange",
        "A run of ours in other engines",
        where.with_duration(time.perf_counter() - start),
        [Table("", columns, rows)],
        "published models of these toolkits, Marian's own engine and fairseq's, which are compared "
        f"through files of their format alone (tests/parity){lacking}. Where 8 bits or 16 are "
        "stored, engines may compute in others, by the processor",
    )
    publish_result("interchange", entry, arguments)


if __name__ == "__main__":
    run_program(main)
