"""What the package knows nothing of goes through its loop, job, checkpoints and searches."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import extensions
from tests.small_job import WORDS, check_equal, configuration, read_jsonl, train_in_parts
from transformer_jax import Translator
from transformer_jax.data.batching import Batches
from transformer_jax.data.corpus import CorpusError, write_corpus
from transformer_jax.data.vocabulary import WhitespaceVocabulary
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError
from transformer_jax.functional import token_log_probs
from transformer_jax.run.folder import Run
from transformer_jax.run.inspect import describe_run
from transformer_jax.run.train import train


def with_model(config, **fields):
    return replace(config, model=replace(config.model, **fields))


def write_tags(folder, count, seed):
    """Sentences of a few words; each is tagged by the first of them, which is w0 to w5 or later."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [rng.choice(WORDS, rng.integers(2, 6)).tolist() for _ in range(count)]
    tags = [["EARLY" if line[0] in WORDS[:6] else "LATE"] * len(line) for line in lines]
    for name, rows in (("words", lines), ("tags", tags)):
        (folder / name).write_text("".join(" ".join(row) + "\n" for row in rows))
    return str(folder / "words"), str(folder / "tags")


def lstm(folder, **options):
    return with_model(configuration(folder, **options), architecture="last state")


def tagging(folder, **options):
    config = with_model(
        configuration(folder, best_metric="accuracy", **options), architecture="tagger"
    )
    data = replace(
        config.data,
        task="tagging",
        train=write_tags(folder / "train", 400, 0),
        validation=write_tags(folder / "validation", 40, 1),
    )
    return replace(config, data=data)


@pytest.fixture(scope="module")
def lstm_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lstm")
    config = lstm(folder, steps=60, best_metric="bleu", log_every=5, checkpoint_every=20)
    return train_in_parts(config, folder, 37)


@pytest.fixture(scope="module")
def tagging_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagging")
    config = tagging(folder, steps=120, evaluate_every=40, checkpoint_every=40)
    optimizer = replace(config.optimizer, lr_factor=0.2)
    return train_in_parts(replace(config, optimizer=optimizer), folder, 37)


@pytest.mark.slow
def test_lstm_trains_resumes_and_is_evaluated(lstm_runs):
    records = check_equal(*lstm_runs)
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0] - 0.3
    assert "validation_bleu" in [r for r in records if "validation_loss" in r][-1]
    evaluation = Translator.load(lstm_runs[0].folder).evaluate(["w1 w2", "w3"], ["W2 W1", "W3"])
    assert [score.name for score in evaluation.scores] == ["tokenized BLEU"]


def test_lstm_is_searched(lstm_runs):
    translator = Translator.load(lstm_runs[0].folder, "last")
    sources = ["w1 w2 w3", "w5 w4"]
    beam = translator.translations(sources, Search(beam_size=3, n_best=3))
    assert all(len(found) == 3 for found in beam)
    assert translator.translate(sources, beam_size=1) == translator.translate(
        sources, method="greedy"
    )
    for source, found in zip(sources, beam):
        # The cached steps of the search find what the model says of the whole target.
        scores = translator.score([source] * 3, [each.text for each in found])
        np.testing.assert_allclose(scores, [each.log_prob for each in found], rtol=1e-4)
    source, target = jnp.array([[4, 5, 1]]), jnp.array([[6, 1]])
    logits = translator.model.apply({"params": translator.params}, source, target)
    [scored] = translator._inference.score([[4, 5]], [[6]])
    np.testing.assert_allclose(scored, token_log_probs(logits, target)[0], rtol=1e-5)


def test_lstm_has_no_attention_to_show(lstm_runs):
    with pytest.raises(Exception, match="architecture last state has no attention to show"):
        Translator.load(lstm_runs[0].folder).attention("w1", "W1")


def test_tagging_trains_resumes_and_is_evaluated(tagging_runs):
    whole, _ = tagging_runs
    records = check_equal(*tagging_runs)
    best = max(r["validation_accuracy"] for r in records if "validation_accuracy" in r)
    source, target = (Path(path).read_text().splitlines() for path in whole.config.data.validation)
    assert best > 0.8  # half of the words are early
    evaluation = Translator.load(whole.folder, "best").evaluate(source, target)
    [score] = evaluation.scores
    # Tags of lines as they are written equal the classes that validation counted.
    assert (score.name, score.value) == ("accuracy", pytest.approx(100 * best))
    assert len(Run.open(whole.folder).vocabularies.target) == 4 + 2
    steps = Run.open(whole.folder).checkpoints(read_only=True)
    scores = {step: steps.metadata(step)["scores"]["validation_accuracy"] for step in steps.steps()}
    assert scores[steps.best_step()] == max(scores.values())


def test_tagging_needs_a_tag_for_each_word(tmp_path):
    config = tagging(tmp_path)
    (tmp_path / "train" / "tags").write_text("LATE\n" * 400)
    with pytest.raises(CorpusError, match=r"words .*tags, pair 1: \d source tokens but 1 target"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("make", [lstm, tagging])
def test_extensions_on_a_mesh_equal_one_device(tmp_path, make):
    found = {}
    for parallel, mesh in (("jit", None), ("mesh", "data=2,fsdp=2"), ("pmap", None)):
        config = make(tmp_path, steps=8, log_every=1, parallel=parallel, mesh=mesh)
        config = with_model(config, dropout=0.0)
        run = train(config, tmp_path / parallel, progress=False)
        records = read_jsonl(run.folder / "metrics.jsonl")
        found[parallel] = [r["loss"] for r in records if "loss" in r]
    for parallel in ("mesh", "pmap"):
        np.testing.assert_allclose(found[parallel], found["jit"], rtol=1e-5)


def with_task(config, task, **fields):
    config = replace(config, data=replace(config.data, task=task))
    return with_model(config, **fields)


def test_language_model_trains(tmp_path):
    """An empty side, an ignored target that is not 0, and a text whose sources are blank."""
    config = configuration(tmp_path, steps=30, log_every=5, evaluate_every=15)
    config = with_task(config, "language modelling", architecture="decoder")
    (tmp_path / "train" / "src").write_text("\n" * 400)
    whole, parts = train_in_parts(config, tmp_path, 17)
    records = [r for r in check_equal(whole, parts) if "loss" in r]
    assert np.isfinite(records[-1]["loss"]) and records[-1]["loss"] < records[0]["loss"]
    translator = Translator.load(whole.folder)
    # What stands for the source changes nothing.
    scores = translator.score(["w1", "w2 w3"], ["W1 W2", "W1 W2"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    longer = replace(config, data=replace(config.data, max_length=51))
    with pytest.raises(UserError, match="max_length 51 is more than the 50 tokens that the arch"):
        train(longer, tmp_path / "longer", progress=False)
    assert not (tmp_path / "longer").exists() or not any((tmp_path / "longer").glob("c*"))


@pytest.mark.slow
def test_transformer_with_two_vocabularies(tmp_path):
    config = with_task(configuration(tmp_path, steps=12), "dictionary", tied_embeddings="none")
    whole, parts = train_in_parts(config, tmp_path, 7)
    check_equal(whole, parts)
    model = Run.open(whole.folder).config.model
    assert (model.vocab_size, model.target_vocab_size) == (16, 16)
    other = train(config, tmp_path / "other", init_from=whole.folder, progress=False)
    assert Translator.load(other.folder).translate(["w1 w2"])
    with pytest.raises(UserError, match="tied_embeddings 'all' is one table for both sides"):
        train(with_model(config, tied_embeddings="all"), tmp_path / "tied", progress=False)
    joint = with_task(config, "translation", target_vocab_size=20)
    with pytest.raises(UserError, match="target_vocab_size 20: the task translation has one voc"):
        train(joint, tmp_path / "joint", progress=False)
    assert not any(tmp_path.glob("tied/c*")) and not any(tmp_path.glob("joint/c*"))


def test_sentences_as_long_as_those_of_training_are_not_cut(tagging_runs):
    translator = Translator.load(tagging_runs[0].folder)
    assert translator._splitter._lines.max_tokens == 5
    [tags] = translator.translate(["w1 w2 w3 w4 w5"])
    assert len(tags.split()) == 5
    assert len(translator._splitter.encode("w1 w2 w3 w4 w5", 0, "auto")) == 1
    assert len(translator._splitter.encode("w1 w2 w3 w4 w5 w6", 0, "auto")) == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_corruption_depends_on_sentence_and_epoch_alone(tmp_path, seed):
    vocabulary = WhitespaceVocabulary.train([" ".join(WORDS)], 100)
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 6)) for _ in range(40)]
    corpus = write_corpus(tmp_path / "c", zip(lines, lines), vocabulary)
    corrupt = extensions.Tagging().corrupt

    def passes(batch_tokens, share=lambda indices: indices):
        config = replace(configuration(tmp_path).data, batch_tokens=batch_tokens)
        batches = Batches(corpus, config, seed, share, corrupt=corrupt)
        found = {}
        for n in range(100):
            batch, (_, indices, seen) = batches.batch(n), batches.shape_and_indices(n)
            for row, key in zip(batch.source, zip(share(indices), share(seen))):
                assert found.setdefault(key, row.tolist()) == row.tolist()
        return found

    whole, others = passes(64), passes(128)
    common = whole.keys() & others.keys()
    assert len(common) > 80 and all(whole[key] == others[key] for key in common)
    part = passes(64, lambda indices: indices[::2])
    assert all(whole[key] == part[key] for key in part)
    drawn = [whole[i, seen] for i, seen in common if (i, 1 - seen) in common]
    again = [whole[i, 1 - seen] for i, seen in common if (i, 1 - seen) in common]
    assert drawn != again  # another pass, other words
    share = np.mean([token == 2 for row in whole.values() for token in row[:6]])
    assert 0.03 < share < 0.1
    # Validation reads the text as it is.
    once = Batches(corpus, configuration(tmp_path).data, seed, corrupt=corrupt).one_epoch()
    assert not any((batch.source == 2).any() for batch in once)


def adafactor(config, schedule):
    return optax.adafactor(schedule, min_dim_size_to_factor=8)


def injected(config, schedule):
    return optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(0.0, 0.01, 20))


@pytest.mark.parametrize("optimizer", [pytest.param(adafactor, marks=pytest.mark.slow), injected])
def test_optimizers_other_than_adam_train(tmp_path, optimizer):
    config = configuration(tmp_path, steps=12, log_every=1)
    whole, parts = train_in_parts(config, tmp_path, 7, optimizer=optimizer)
    records = [r for r in check_equal(whole, parts) if "loss" in r]
    assert records[-1]["loss"] < records[0]["loss"]
    if optimizer is injected:
        rates = [record["learning_rate"] for record in records]
        np.testing.assert_allclose(rates, np.arange(12) * 0.01 / 20, rtol=1e-5, atol=1e-9)
    state = jax.eval_shape(whole.step_functions(optimizer).init, jax.random.key(0))
    assert any("v_row" in str(p) for p, _ in jax.tree_util.tree_leaves_with_path(state)) == (
        optimizer is adafactor
    )
    assert Translator.load(parts.folder).translate(["w1"])
    assert "DAMAGED" not in (found := describe_run(whole.folder))
    checkpoints = len(whole.checkpoints(read_only=True).steps())
    assert found.count("an optimizer that is not Adam was not read") == checkpoints > 1
    with pytest.raises(Exception, match=r"are not those of .* your own needs the same one"):
        train(replace(config, train=replace(config.train, steps=14)), parts.folder, progress=False)


def test_tagging_rejects_unaligned_tags(tagging_runs):
    translator = Translator.load(tagging_runs[0].folder)
    assert translator.score(["w1 w2"], ["EARLY EARLY"])[0] < 0
    with pytest.raises(UserError, match="sentence 1 has 2 source tokens but 1 target tokens"):
        translator.score(["w1 w2"], ["EARLY"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": "lstn"}, "architecture 'lstn' is unknown; did you mean 'lstm'"),
        ({"data": "taging"}, "task 'taging' is unknown; did you mean 'tagging'"),
        (
            {"train": "bleu"},
            "'bleu' is not one of the task's, loss, perplexity, accuracy",
        ),
    ],
)
def test_unknown_family_or_task_is_refused_before_writing(tmp_path, change, message):
    config = tagging(tmp_path)
    [(part, value)] = change.items()
    name = {"model": "architecture", "data": "task", "train": "best_metric"}[part]
    config = replace(config, **{part: replace(getattr(config, part), **{name: value})})
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "config.json").exists()
