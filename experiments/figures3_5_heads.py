"""Figures 3 to 5: what heads of a trained encoder look at, and what one of them is for.

    python -m experiments.figures3_5_heads --run-dir runs/demo/run      after `make demo`

Paper    Figure 3: heads that look far away; figure 4: two heads that resolve "its"; figure 5: two
         heads that follow the structure of the sentence. Layer 5 of 6, chosen by eye.
Ours     The embedded corpus knows every pronoun's antecedent and every phrase, so each head has
         four numbers: words between a word and what it attends to, weight on itself and its
         neighbours, weight from "it" to its antecedent, weight on the other words of the smallest
         phrase. A head that looks so many words away, whatever they are, has some of the last two
         by luck, often more than even weights: beside them stands what each head would have by its
         distances alone (for "it", those that it looks from "it"), and what is beyond that ranks
         it. Heads are ranked on validation sentences, drawn by that rank, and told on test
         sentences. Then each head is removed, and what the translations make of "it" is compared
         with the reference.

--source, --layer and --head together draw any head on any sentence.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.figures1_2_architecture import save
from experiments.ledger import Cell, Entry, Provenance, Table
from experiments.program import make_parser, publish_result
from transformer_jax.data.datasets import DatasetSplit
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError
from transformer_jax.run.folder import Run
from transformer_jax.run.splits import dataset_splits
from transformer_jax.terminal import run_program
from transformer_jax.translator import Translator
from transformer_jax.visualization.attention import (
    attention_lines,
    check_head,
    merge_pieces,
    merge_weights,
)

# Sentences with "it" of each split; words of the longest that is drawn.
SENTENCES, LONGEST = 100, 14
# What German says for "it", in every case.
PRONOUNS = {"er", "sie", "es", "ihn", "ihm", "ihr"}
MEASURES = ("distance", "neighbours", "antecedent", "phrase")


@dataclass(frozen=True)
class Sentence:
    """A pair with its annotations, and the encoder's weights between words, [L, H, words, words].

    pronoun, noun  places of "it" and its antecedent
    before         pronouns of the German before the one that stands for "it"
    phrases        for each word the first and end of the smallest phrase of several around it
    """

    source: str
    target: str
    labels: list[str]
    weights: np.ndarray
    pronoun: int
    noun: int
    before: int
    phrases: list[tuple[int, int]]


def sentences(translator: Translator, split: DatasetSplit, count: int) -> list[Sentence]:
    """The first sentences of a split that speak of "it"."""
    found = []
    for example in split.examples():
        if not len(example["antecedents"]):
            continue
        source, target = example["en"].decode(), example["de"].decode()
        maps = translator.attention(source, target)
        labels = [word for word, _ in merge_pieces(maps.source)]
        (pronoun, noun), (german, _) = example["antecedents"].tolist()
        before = len(_pronouns(" ".join(target.split()[:german])))
        weights = merge_weights(maps.encoder, maps.source, maps.source)
        spans = [tuple(span) for span in example["spans"].tolist()]
        phrases = [_smallest(spans, place) for place in range(len(labels) - 1)]
        found.append(Sentence(source, target, labels, weights, pronoun, noun, before, phrases))
        if len(found) == count:
            return found
    return found


def _smallest(spans: Sequence[tuple[int, int]], place: int) -> tuple[int, int]:
    """Of the phrases of several words around a word; the whole sentence is one."""
    around = [(first, end) for first, end in spans if first <= place < end and end - first > 1]
    return min(around, key=lambda span: span[1] - span[0])


def measured(sentence: Sentence, weights: np.ndarray) -> np.ndarray:
    """[..., 4]: MEASURES of weights [..., words, words]; the end of the sentence asks nothing.

    Distance and phrases are of the weight between words: much of the rest goes to the sentence's
    end.
    """
    count = len(sentence.labels)
    places = np.arange(count)
    apart = np.abs(places[:, None] - places[None])[:-1]
    between = weights[..., :-1, :-1]
    # A head may look at the end alone.
    total = np.maximum(between.sum(-1), 1e-9)
    inside = np.zeros((count - 1, count), bool)
    for place, (first, end) in enumerate(sentence.phrases):
        inside[place, first:end] = True
        inside[place, place] = False
    asked = weights[..., :-1, :]
    return np.stack(
        [
            ((between * apart[:, :-1]).sum(-1) / total).mean(-1),
            (asked * (apart <= 1)).sum(-1).mean(-1),
            weights[..., sentence.pronoun, sentence.noun],
            ((between * inside[:, :-1]).sum(-1) / total).mean(-1),
        ],
        axis=-1,
    )


class HeadScores(NamedTuple):
    """Means over sentences of MEASURES.

    own [L, H, 4]    what each head does
    alone [L, H, 4]  what it would do by its distances alone; from "it" by those from "it"
    fixed            name -> [4] of weights that are the same for every sentence
    """

    own: np.ndarray
    alone: np.ndarray
    fixed: dict[str, np.ndarray]

    @property
    def order(self) -> np.ndarray:
        """[L, H, 4]: what ranks heads; of antecedents and phrases what is beyond `alone`."""
        return self.own - self.alone * np.isin(MEASURES, ("antecedent", "phrase"))


def by_distance_alone(
    found: Sequence[Sentence], asking: Callable[[Sentence], Iterable[int]]
) -> list[np.ndarray]:
    """The sentences' weights [L, H, words, words] as heads would give them that see no words.

    Each head's mean weight at each distance, to the left and to the right, from the words at the
    places `asking`, shared out over the words that a sentence has there; what a word gives to the
    sentence's end stays.
    """
    most = max(len(each.labels) for each in found)
    total, count = np.zeros((*found[0].weights.shape[:2], 2 * most)), np.zeros(2 * most)

    def distances(each: Sentence, place: int) -> slice:
        return slice(most - place, most - place + len(each.labels) - 1)

    for each in found:
        for place in asking(each):
            total[..., distances(each, place)] += each.weights[..., place, :-1]
            count[distances(each, place)] += 1
    mean = total / np.maximum(count, 1)
    expected_weights = []
    for each in found:
        weights = each.weights.copy()
        for place in range(len(each.labels) - 1):
            spread, between = mean[..., distances(each, place)], each.weights[..., place, :-1]
            share = between.sum(-1, keepdims=True) / np.maximum(spread.sum(-1, keepdims=True), 1e-9)
            weights[..., place, :-1] = spread * share
        expected_weights.append(weights)
    return expected_weights


def head_scores(found: Sequence[Sentence]) -> HeadScores:
    def mean(weights: Iterable[np.ndarray]) -> np.ndarray:
        return np.mean([measured(each, w) for each, w in zip(found, weights)], axis=0)

    distance_baseline = mean(by_distance_alone(found, lambda each: range(len(each.labels) - 1)))
    antecedent = MEASURES.index("antecedent")
    distance_baseline[..., antecedent] = mean(
        by_distance_alone(found, lambda each: [each.pronoun])
    )[..., antecedent]
    sizes = [len(each.labels) for each in found]
    fixed = {
        "even weights": mean(np.full((size, size), 1 / size) for size in sizes),
        "always the next word": mean(np.eye(size, k=1) for size in sizes),
        "always two words back": mean(np.eye(size, k=-2) for size in sizes),
    }
    return HeadScores(mean(each.weights for each in found), distance_baseline, fixed)


def best(scores: np.ndarray, measure: str, count: int = 1) -> list[tuple[int, int]]:
    """(layer, head) of the `count` heads with most of a measure, both from 0."""
    values = scores[..., MEASURES.index(measure)]
    order = np.argsort(values, axis=None)[::-1][:count]
    return [tuple(map(int, np.unravel_index(at, values.shape))) for at in order]  # type: ignore[misc]


def without(params, layer: int, head: int, value_size: int):
    """Parameters of which an encoder head's values reach nothing: its rows of W^O are zero."""
    name = f"encoder_{layer}"
    attention = params[name]["self_attention"]
    kernel = attention["output"]["kernel"]
    rows = slice(head * value_size, (head + 1) * value_size)
    output = {**attention["output"], "kernel": kernel.at[rows].set(0)}
    return {
        **params,
        name: {**params[name], "self_attention": {**attention, "output": output}},
    }


def right(translator: Translator, found: Sequence[Sentence]) -> np.ndarray:
    """Whether each translation has the reference's pronoun where "it" is spoken of.

    Its place is told by the pronouns before it.
    """
    translations = translator.translate([each.source for each in found], Search(method="greedy"))
    pairs = ((_pronouns(t), _pronouns(each.target)) for t, each in zip(translations, found))
    return np.array(
        [own[each.before : each.before + 1] == ref[each.before : each.before + 1]
         for (own, ref), each in zip(pairs, found)]
    )  # fmt: skip


def _pronouns(text: str) -> list[str]:
    return [word for word in (w.strip(".,").lower() for w in text.split()) if word in PRONOUNS]


def removals(
    translator: Translator, found: Sequence[Sentence]
) -> dict[tuple[int, int], np.ndarray]:
    """(layer, head) -> which pronouns are right when that head of the encoder is removed."""
    config = translator.model.config
    return {
        (layer, head): right(
            Translator(
                translator.model,
                without(translator.params, layer, head, config.value_size),
                translator.vocabulary,
                max_length=translator.max_length,
            ),
            found,
        )
        for layer in range(config.num_layers)
        for head in range(config.num_heads)
    }


def head_table(order: np.ndarray, scores: HeadScores, removed, whole) -> Table:
    """Heads by the weight from "it" to its antecedent in `order`, and what each is for.

    removed  (layer, head) -> right without it; whole  right with all
    """

    def measures(own: np.ndarray, alone: Sequence[float | None]) -> list[Cell]:
        distance, neighbours, antecedent, phrase = map(float, own)
        return [distance, neighbours, antecedent, alone[2], phrase, alone[3]]

    rows: list[list[Cell]] = [
        [f"{layer + 1}.{head + 1}",
         *measures(scores.own[layer, head], [*map(float, scores.alone[layer, head])]),
         int(removed[layer, head].sum()), int((whole & ~removed[layer, head]).sum()),
         int((~whole & removed[layer, head]).sum())]
        for layer, head in best(order, "antecedent", order[..., 0].size)
    ]  # fmt: skip
    for name, own in scores.fixed.items():
        rows.append([name, *measures(own, [None] * len(MEASURES)), None, None, None])
    rows.append(["nothing removed", *[None] * 6, int(whole.sum()), 0, 0])
    columns = [
        "layer.head", "distance, words", "weight on itself and neighbours",
        "weight it -> antecedent", "by its distances alone", "weight in the phrase",
        "by its distances alone", f"'it' right without it, of {len(whole)}", "lost", "gained",
    ]  # fmt: skip
    return Table("Heads of the encoder on test sentences", columns, rows)


def rank_table(order: np.ndarray) -> Table:
    """The heads, most first, of each measure."""
    size = order[..., 0].size
    rows = [
        [name, ", ".join(f"{layer + 1}.{head + 1}" for layer, head in best(order, name, size))]
        for name in MEASURES
    ]
    return Table("Heads ranked on validation sentences", ["by", "layer.head, most first"], rows)


def pictures(shown: Sentence, scores: np.ndarray) -> dict:
    """Name -> figure, of a sentence's own weights and the heads that the scores choose."""

    def lines(heads: Sequence[tuple[int, int]], title: str, only: int | None = None):
        weights = np.stack([shown.weights[layer, head] for layer, head in heads])
        if only is not None:
            keep = np.arange(weights.shape[1])[:, None] == only
            weights = np.where(keep, weights, 0)
        names = [f"layer {layer + 1} head {head + 1}" for layer, head in heads]
        return attention_lines(weights, shown.labels, shown.labels, title=title, names=names)

    far = best(scores, "distance", 2)
    places = np.arange(len(shown.labels) - 1)
    apart = np.abs(places[:, None] - places[None])
    reach = sum((shown.weights[layer, head, :-1, :-1] * apart).sum(-1) for layer, head in far)
    anaphora = best(scores, "antecedent", 2)
    return {
        "figure3": lines(far, "far", int(np.argmax(reach))),
        "figure4-all": lines(anaphora[:1], "anaphora"),
        "figure4-it": lines(anaphora, "anaphora", shown.pronoun),
        "figure5-first": lines(best(scores, "phrase", 2)[:1], "phrases"),
        "figure5-second": lines(best(scores, "phrase", 2)[1:], "phrases"),
    }


def one_head(translator: Translator, source: str, layer: int, head: int):
    """Any head on any sentence, both from 1."""
    maps = translator.attention(source, source)  # the encoder sees no target
    check_head(maps.encoder, layer, head)
    labels = [word for word, _ in merge_pieces(maps.source)]
    weights = merge_weights(maps.encoder[layer - 1, head - 1], maps.source, maps.source)
    title = f"layer {layer} head {head}"
    return attention_lines(weights[None], labels, labels, title=title)


def main() -> None:
    parser = make_parser(__doc__, "runs/figures")
    parser.add_argument("--run-dir", type=Path, required=True, help="trained on the grammar")
    parser.add_argument("--sentences", type=int, default=SENTENCES, help="with 'it', of each split")
    parser.add_argument("--source", help="draw this sentence only; needs --layer and --head")
    parser.add_argument("--layer", type=int, help="from 1")
    parser.add_argument("--head", type=int, help="from 1")
    arguments = parser.parse_args()
    chosen = (arguments.source, arguments.layer, arguments.head)
    if any(each is not None for each in chosen):
        if None in chosen:
            raise UserError("--source, --layer and --head belong together: give all three")
        figure = one_head(Translator.load(arguments.run_dir), *chosen)
        save({f"layer{arguments.layer}-head{arguments.head}": figure}, arguments.output)
        return
    if arguments.sentences < 1:
        raise UserError(f"--sentences {arguments.sentences} must be positive")
    data = Run.open(arguments.run_dir).config.data
    if (data.dataset or "").partition("/")[0] != "grammar" or data.known_direction != "en-de":
        raise UserError(
            f"{arguments.run_dir} was trained on {data.dataset or 'files'} "
            f"({data.known_direction or 'languages unknown'}), which "
            "knows no antecedents: give a run of the grammar, en-de, or --source, --layer, --head"
        )
    command = "python -m experiments.figures3_5_heads --run-dir RUN"
    start = time.perf_counter()
    where = Provenance.here(f"{command} --sentences {arguments.sentences}")
    splits = dataset_splits(arguments.run_dir)
    translator = Translator.load(arguments.run_dir)
    choosing, telling = (
        sentences(translator, splits[name], arguments.sentences) for name in ("validation", "test")
    )
    order, scores = head_scores(choosing).order, head_scores(telling)
    short = [s for s in telling if len(s.labels) <= LONGEST and s.pronoun - s.noun > 3] or telling
    save(pictures(short[0], order), arguments.output)
    whole = right(translator, telling)
    told = head_table(order, scores, removals(translator, telling), whole)
    model = translator.model.config
    made = Entry(
        "figures3_5_heads",
        f"Figures 3 to 5, what heads are for ({data.dataset}, {translator.checkpoint})",
        where.with_duration(time.perf_counter() - start),
        [told, rank_table(order)],
        "the paper has no numbers here, only pictures of heads that were chosen by eye; its model "
        f"has 6 layers of 8 heads, this one {model.num_layers} of {model.num_heads}",
    )
    publish_result("figures3-5", made, arguments)


if __name__ == "__main__":
    run_program(main)
