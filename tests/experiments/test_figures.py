import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import demo
from experiments import figures1_2_architecture as architecture
from experiments import figures3_5_heads as heads
from experiments.calls import calls, dataflow_edges
from transformer_jax import Transformer, presets
from transformer_jax.errors import UserError


@pytest.fixture(scope="module")
def tree():
    return calls(presets.base())


def layer(side):
    """Of encode or decode: the layer that stands for six, and its group."""
    [group] = [call for call in side.inner if call.times > 1]
    assert group.times == 6
    return group.inner[-1], group


def test_figure_1_is_what_runs(tree):
    encode, decode = tree.inner
    assert (encode.kind, encode.shape) == ("encode", "[B, S, D]")
    assert (decode.kind, decode.shape) == ("decode", "[B, T, V]")
    encoder, _ = layer(encode)
    assert [[each.kind for each in part.inner] for part in encoder.inner] == [
        ["MultiHeadAttention", "apply_dropout", "LayerNorm"],
        ["FeedForward", "apply_dropout", "LayerNorm"],
    ]
    decoder, group = layer(decode)
    assert (group.inner[0].kind, group.inner[0].name) == ("keys_values", "cross_attention")
    assert [part.inner[-1].name for part in decoder.inner] == [
        "self_attention_norm", "cross_attention_norm", "feed_forward_norm",
    ]  # fmt: skip
    kinds = [call.kind for call in tree.all()]
    assert kinds.count("embed") == kinds.count("sinusoids") == 2
    assert kinds.count("unembed") == kinds.count("causal_mask") == 1
    # Dropout of weights is zero in the paper: it is not drawn.
    attention = next(call for call in tree.all() if call.kind == "MultiHeadAttention")
    assert "apply_dropout" not in [call.kind for call in attention.inner]


def named(call):
    """Its dataflow_edges by kinds; what comes from outside is "in", what goes there "out"."""
    names = {place: each.kind or "layers" for place, each in enumerate(call.inner)}
    names |= {-1: "in", len(call.inner): "out"}
    return {(names[start], names[to]) for start, to in dataflow_edges(call)}


def test_figure_lines_follow_the_data(tree):
    encode, decode = tree.inner
    assert named(encode) == {
        ("in", "padding_mask"), ("in", "embed"), ("embed", "apply_dropout"),
        ("sinusoids", "apply_dropout"), ("apply_dropout", "layers"), ("padding_mask", "layers"),
        ("layers", "out"),
    }  # fmt: skip
    assert {*encode.reads} == {"source"} and decode.reads == {*encode.numbers, "source", "target"}
    assert ("causal_mask", "layers") in named(decode)
    assert not {("in", "causal_mask"), ("apply_dropout", "causal_mask")} & named(decode)
    attention, feed_forward = layer(encode)[0].inner
    # The residual connection: what comes in goes around the sub-layer to the norm.
    assert named(feed_forward) == {
        ("in", "FeedForward"), ("FeedForward", "apply_dropout"), ("apply_dropout", "LayerNorm"),
        ("in", "LayerNorm"), ("LayerNorm", "out"),
    }  # fmt: skip
    module = attention.inner[0]
    assert [each.kind for each in module.inner] == [
        "keys_values", "Linear", "split_heads", "attention_weights", "apply_attention",
        "merge_heads", "Linear",
    ]  # fmt: skip
    # Queries and keys make weights (the mask comes from outside), which are applied to values.
    assert dataflow_edges(module) == [
        (-1, 0), (-1, 1), (-1, 3), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7),
    ]  # fmt: skip
    keys_values = module.inner[0]
    assert [each.kind for each in keys_values.inner] == [*["Linear"] * 2, *["split_heads"] * 2]
    assert dataflow_edges(keys_values) == [(-1, 0), (-1, 1), (0, 2), (1, 3), (2, 4), (3, 4)]
    decoder, group = layer(decode)
    # The memory's keys and values, and its mask, go past self-attention to the second sub-layer.
    assert dataflow_edges(decoder) == [(-1, 0), (-1, 1), (0, 1), (1, 2), (2, 3)]
    [drop, causal, padding] = (decode.inner[place].numbers for place in (2, 3, 4))
    [keys_values] = (call.numbers for call in group.inner[:1])
    assert decoder.inner[0].reads == drop | causal
    assert decoder.inner[1].reads == decoder.inner[0].numbers | keys_values | padding
    memory = group.inner[0]
    assert memory.reads == encode.numbers
    assert named(group) == {
        ("in", "keys_values"), ("in", "DecoderLayer"), ("keys_values", "DecoderLayer"),
        ("DecoderLayer", "out"),
    }  # fmt: skip


def test_figure_1_follows_the_model():
    tree = calls(presets.t2t(presets.tiny(50)))
    encode = tree.inner[0]
    [group] = [call for call in encode.inner if call.times > 1]
    assert group.times == 2
    # Pre-norm: the norm comes before what it normalises, and a last one after the layers; what
    # comes in goes around both.
    feed_forward = group.inner[0].inner[1]
    assert feed_forward.inner[0].kind == "LayerNorm"
    assert {("LayerNorm", "FeedForward"), ("in", "out")} <= named(feed_forward)
    assert ("in", "FeedForward") not in named(feed_forward)
    assert encode.inner[-1].kind == "LayerNorm"


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"position_encoding": "learned"}, "learned_positions"),
     ({"attention_score": "additive"}, "additive_attention_weights")],
)  # fmt: skip
def test_figure_1_of_other_models(change, kind):
    tree = calls(replace(presets.tiny(50), **change))
    found = [call for call in tree.all() if call.kind == kind]
    assert found
    assert all(call.reads for call in found) == (kind != "learned_positions")
    pre = architecture.figure2(replace(presets.tiny(50), norm_placement="pre", **change))
    assert any("MultiHeadAttention" in text.get_text() for text in pre.axes[1].texts)


def test_figure_2_is_the_jaxpr():
    attention = architecture.boxes_of_attention()
    # The second mask makes rows without keys zero.
    assert [box.kind for box in attention.inner] == [
        "MatMul", "Scale", "Mask (opt.)", "SoftMax", "Mask (opt.)", "MatMul",
    ]  # fmt: skip
    assert {"exp", "reduce_sum", "div"} <= {each.kind for each in attention.inner[3].inner}
    assert [box.reads for box in attention.inner] == [
        {"query", "key"}, {0}, {1, "mask"}, {2}, {3, "mask"}, {4, "value"},
    ]  # fmt: skip


def test_figures_1_and_2_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["figures", "--output", str(tmp_path)])
    architecture.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "figure1.png", "figure1.svg", "figure2.png", "figure2.svg",
    ]  # fmt: skip
    assert (tmp_path / "figure1.svg").read_text().count("6 ×") == 2
    assert "SoftMax" in (tmp_path / "figure2.svg").read_text()


def sentence(weights):
    """a b c d and the end; d stands for b; (b c) is a phrase."""
    return heads.Sentence(
        "a b c d", "A B C D", ["a", "b", "c", "d", "</s>"], weights, pronoun=3, noun=1, before=0,
        phrases=[(0, 4), (1, 3), (1, 3), (0, 4)],
    )  # fmt: skip


def test_measures_by_hand():
    weights = np.zeros((5, 5))
    weights[0, 0] = 1.0
    weights[1, [2, 4]] = 0.5  # of the weight between words all is one word away
    weights[2, [0, 3]] = 0.5  # two away, one away
    weights[3, [1, 3]] = (0.75, 0.25)
    weights[4, 4] = 1.0
    distance, neighbours, antecedent, phrase = heads.measured(sentence(weights), weights)
    assert distance == pytest.approx((0 + 1 + 1.5 + 1.5) / 4)
    assert neighbours == pytest.approx((1 + 0.5 + 0.5 + 0.25) / 4)
    assert antecedent == 0.75
    # The word itself is no part of its phrase: a head that looks at itself follows nothing.
    assert phrase == pytest.approx((0 + 1 + 0 + 0.75) / 4)
    own = heads.measured(sentence(np.eye(5)), np.eye(5))
    assert (own[0], own[3]) == (0, 0)
    at_the_end = np.zeros((5, 5))
    at_the_end[:, 4] = 1
    assert np.isfinite(heads.measured(sentence(at_the_end), at_the_end)).all()


def test_heads_are_scored_and_ranked():
    looking, even = np.full((5, 5), 0.2), np.full((5, 5), 0.2)
    looking[3] = [0, 1, 0, 0, 0]
    scores = heads.head_scores([sentence(np.stack([[even, looking]]))])
    assert scores.own.shape == scores.order.shape == (1, 2, 4)
    assert heads.best(scores.own, "antecedent", 2) == [(0, 1), (0, 0)]
    np.testing.assert_allclose(scores.own[0, 0], scores.fixed["even weights"])
    assert scores.fixed["even weights"][2] == pytest.approx(0.2)
    assert scores.fixed["always two words back"][2] == 1  # d, and b
    # b is in a's phrase (a b c d), c in b's (b c), d not in c's (b c), and after d comes the end.
    following = scores.fixed["always the next word"]
    assert following.tolist() == [pytest.approx(0.75), 1.0, 0.0, pytest.approx(0.5)]
    whole = np.array([True, True, False])
    removed = {(0, 0): whole, (0, 1): np.array([False, False, True])}
    rows = heads.head_table(scores.own, scores, removed, whole).rows
    assert [row[0] for row in rows] == [
        "1.2", "1.1", *scores.fixed, "nothing removed",
    ]  # fmt: skip
    assert [row[-3:] for row in rows] == [
        [1, 2, 1], [2, 0, 0], *[[None] * 3] * 3, [2, 0, 0],
    ]  # fmt: skip
    # The order is that of other sentences.
    rows = heads.head_table(scores.own[:, ::-1], scores, removed, whole).rows
    assert [row[0] for row in rows[:2]] == ["1.1", "1.2"]
    assert dict(heads.rank_table(scores.own).rows)["antecedent"] == "1.2, 1.1"


def test_distance_baseline():
    """Two sentences "x y it": the head finds x in the one, y in the other; other words themselves.

    By distance, over both: two to the left 1 of 2, one to the left 1 of 4, the word itself 4 of 6.
    """
    found = []
    for noun in (0, 1):
        weights = np.zeros((1, 1, 4, 4))
        weights[..., [0, 1, 3], [0, 1, 3]] = 1
        weights[..., 2, noun] = 1
        labels = ["x", "y", "it", "</s>"]
        whole = [(0, 3)] * 3
        found.append(heads.Sentence("", "", labels, weights, 2, noun, 0, whole))
    made = heads.by_distance_alone(found, lambda each: range(3))
    total = 1 / 2 + 1 / 4 + 4 / 6
    expected = [1 / 2 / total, 1 / 4 / total, 4 / 6 / total, 0]
    for weights in made:
        np.testing.assert_allclose(weights[0, 0, 2], expected)
        np.testing.assert_allclose(weights[0, 0, 3], [0, 0, 0, 1])
        np.testing.assert_allclose(weights.sum(-1), 1)
    # From "it" alone: as often two to the left as one.
    for weights in heads.by_distance_alone(found, lambda each: [each.pronoun]):
        np.testing.assert_allclose(weights[0, 0, 2], [0.5, 0.5, 0, 0])
    scores = heads.head_scores(found)
    assert scores.own[0, 0, 2] == 1
    assert scores.alone[0, 0, 2] == pytest.approx(0.5)
    np.testing.assert_allclose(scores.order, scores.own - scores.alone * [0, 0, 1, 1], atol=1e-12)
    # Of a head that knows distances only nothing is left.
    for each in found:
        each.weights[:] = np.eye(4, k=1)
        each.weights[..., 2:, :] = [0, 0, 0, 1]
    scores = heads.head_scores(found)
    np.testing.assert_allclose(scores.alone, scores.own, atol=1e-8)


def test_phrases_are_the_smallest_of_several_words():
    spans = [(0, 6), (0, 3), (1, 3), (1, 2), (3, 6)]
    assert [heads._smallest(spans, place) for place in range(4)] == [(0, 3), (1, 3), (1, 3), (3, 6)]


def test_head_removal_zeroes_its_output():
    """As if the head's values were zero; the others are as they were."""
    model = Transformer(presets.tiny(50))
    source, target = jnp.array([[5, 6, 7, 2]]), jnp.array([[8, 9, 2]])
    params = jax.jit(model.init)(jax.random.key(0), source, target)["params"]
    size = model.config.value_size
    removed = heads.without(params, 1, 2, size)
    silent = jax.tree.map(lambda leaf: leaf, params)
    value = silent["encoder_1"]["self_attention"]["value"]
    columns = slice(2 * size, 3 * size)
    value["kernel"] = value["kernel"].at[:, columns].set(0)
    value["bias"] = value["bias"].at[columns].set(0)
    apply = jax.jit(model.apply)
    logits = [apply({"params": p}, source, target) for p in (params, removed, silent)]
    np.testing.assert_allclose(logits[1], logits[2], atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_pronouns_compare_pronoun_translations_alone():
    """ "She said that it fell": an error of "she" is another head's."""
    references = ["Sie sagte, dass er fiel.", "Er sah ihn.", "Sie."]
    said = ["Er sagte, dass er fiel.", "er fand sie,", ""]
    found = [SimpleNamespace(source="x", target=t, before=b) for t, b in zip(references, (1, 1, 0))]
    translator = SimpleNamespace(translate=lambda sources, search: said)
    assert heads.right(translator, found).tolist() == [True, False, False]
    assert heads._pronouns("Ihn sah er.") == ["ihn", "er"]


@pytest.mark.slow
def test_demo_and_its_figures(tmp_path, monkeypatch, capsys):
    """Two updates on the grammar: nothing is learned, all is scored, drawn and counted."""

    def small(steps):
        config = demo_configuration(steps)
        model = replace(config.model, num_layers=1, d_model=32, d_ff=32, num_heads=2)
        return replace(config, model=model, data=replace(config.data, dataset="grammar/10k"))

    demo_configuration = demo.configuration
    monkeypatch.setattr(demo, "configuration", small)
    monkeypatch.setattr(demo, "PRONOUNS", 3)
    words = ["demo", "--steps", "2", "--sentences", "2", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    demo.main()
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path)
    scores, pronoun = json.loads((tmp_path / "demo-2.json").read_text())["tables"]
    assert [row[0] for row in scores["rows"]] == [
        "validation", "test", "compositional", "length", "distance",
    ]  # fmt: skip
    assert {row[3] for row in scores["rows"]} == {2} and pronoun["rows"][0][4] == 3
    assert len((tmp_path / "translations.tsv").read_text().splitlines()) == 1 + 5 * 2
    assert (tmp_path / "learning-curve.png").exists()
    monkeypatch.setattr("sys.argv", [*words[:2], "1", *words[3:]])
    with pytest.raises(UserError, match="run is at step 2, beyond the 1 asked for"):
        demo.main()

    def go(*words):
        fixed = ["heads", "--run-dir", str(tmp_path / "run"), "--output", str(tmp_path / "figures")]
        monkeypatch.setattr("sys.argv", [*fixed, *words])
        heads.main()

    go("--sentences", "3", "--results-dir", str(tmp_path))
    assert len(list((tmp_path / "figures").glob("figure*.svg"))) == 5
    table, _ = json.loads((tmp_path / "figures3-5.json").read_text())["tables"]
    assert [row[0] for row in table["rows"]][2:] == [
        "even weights", "always the next word", "always two words back", "nothing removed",
    ]  # fmt: skip
    go("--source", "A <cat> & a $dog.", "--layer", "1", "--head", "2")
    assert "&lt;cat&gt;" in (tmp_path / "figures" / "layer1-head2.svg").read_text()
    with pytest.raises(UserError, match="head 3: the model has heads 1 to 2"):
        go("--source", "A cat.", "--layer", "1", "--head", "3")
    with pytest.raises(UserError, match="belong together"):
        go("--layer", "1")
    with pytest.raises(UserError, match="--sentences 0 must be positive"):
        go("--sentences", "0")


def test_figures_reject_a_run_without_antecedents(uninterrupted_run, monkeypatch):
    monkeypatch.setattr("sys.argv", ["heads", "--run-dir", str(uninterrupted_run[2].folder)])
    with pytest.raises(
        UserError, match="was trained on files \\(languages unknown\\), which knows no antecedents"
    ):
        heads.main()
