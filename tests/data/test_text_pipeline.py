"""What is done to text before a vocabulary cuts it."""

import json
from dataclasses import asdict, replace
from importlib.metadata import version

import pytest

from tests.small_job import configuration
from transformer_jax import DataConfig, Translator
from transformer_jax.config import ConfigError
from transformer_jax.data.corpus import Corpus
from transformer_jax.data.manifest import Manifest
from transformer_jax.data.pairing import Pairing
from transformer_jax.data.pieces import PieceVocabulary
from transformer_jax.data.preparation import prepare
from transformer_jax.data.splitting import LineSplitter
from transformer_jax.data.text_pipeline import PipelineVocabulary, TextPipeline
from transformer_jax.data.vocabulary import (
    UNK_ID,
    Vocabularies,
    VocabularyError,
    WhitespaceVocabulary,
    load_vocabularies,
    save_vocabularies,
    train_vocabulary,
)
from transformer_jax.errors import UserError
from transformer_jax.evaluation.bleu import default_score
from transformer_jax.run.folder import RunError
from transformer_jax.run.train import train
from transformer_jax.weights import export_model, import_model

MOSES = TextPipeline("moses", "moses", "en", "<2de>")


@pytest.mark.parametrize(
    "pipeline, text, prepared",
    [
        (TextPipeline(), "a\u0308 \u201cx\u201d", "a\u0308 \u201cx\u201d"),
        (TextPipeline("nfc"), "a\u0308 \ufb01", "\u00e4 \ufb01"),
        (TextPipeline("nfkc"), "a\u0308 \ufb01", "\u00e4 fi"),
        (
            TextPipeline("moses", language="en"),
            "\u201cNo\u201d \u2013 it\u2019s 5 %",
            '"No" - it\'s 5%',
        ),
        (
            TextPipeline(word_splitting="moses", language="en"),
            "It's (not) so.",
            "It 's ( not ) so .",
        ),
        (TextPipeline(tag=">>deu<<"), "Hello.", ">>deu<< Hello."),
        (TextPipeline(tag=">>deu<<"), "", ""),
        (MOSES, "Mr. Smith\u2019s <b> & co.", "<2de> Mr. Smith 's < b > & co ."),
    ],
)
def test_pipeline_prepares_text(pipeline, text, prepared):
    assert pipeline.apply(text) == prepared
    assert pipeline.apply("Hello.", code="<2fr>").startswith("<2fr> Hello")


def test_words_are_joined_again():
    for text in ("It's (not) so, & co.", 'Mr. Smith said: "Go!"'):
        pipeline = TextPipeline(word_splitting="moses", language="en")
        assert pipeline.restore(pipeline.apply(text)) == text
    assert TextPipeline().restore("a  b .") == "a  b ."


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"normalization": "NFC"}, "normalization 'NFC' is not one of none, nfc, nfkc, moses"),
        ({"word_splitting": "moses"}, "depends on the language: give --direction"),
        ({"tag": "a b"}, "tag 'a b' must be visible characters without a space"),
        ({"tag": ""}, "tag '' must be visible"),
        ({"tag": "a\u00ad"}, "must be visible"),
        ({"tag": "\ud800"}, "must be visible"),
        ({"tag": "</s>"}, "may be a part of text, or a special symbol: write it otherwise"),
        ({"tag": "de"}, "may be a part of text"),
        ({"normalization": "moses", "language": "German"}, "'German' is not a language code"),
    ],
)
def test_pipeline_refuses(fields, message):
    with pytest.raises(UserError, match=message):
        TextPipeline(**fields)


def test_configuration_refuses_a_tag_of_two_words():
    with pytest.raises(ConfigError, match="source_tag 'to German' must be visible characters with"):
        DataConfig(source_tag="to German")


@pytest.mark.parametrize("kind", ["bpe", "whitespace"])
def test_vocabulary_and_pipelines_are_kept_together(tmp_path, kind):
    lines = [MOSES.apply("The dog's \u201cbone\u201d."), "Der Knochen des Hundes ."] * 30
    inner = train_vocabulary(kind, lines, 290 if kind == "bpe" else 50, ["<2de>"])
    german = TextPipeline("moses", "moses", "de")
    both = Vocabularies.with_pipelines(inner, inner, (MOSES, german))
    assert both.joint and str(both) == str(len(inner))
    save_vocabularies(both, tmp_path)
    loaded = load_vocabularies(tmp_path)
    assert [v.pipeline for v in loaded] == [MOSES, german] and loaded.joint
    assert [v.to_bytes() for v in loaded] == [v.to_bytes() for v in both]
    text = "The dog\u2019s bone."
    ids = loaded.source.encode(text)
    assert ids == inner.encode("<2de> The dog 's bone .") == loaded.source.encode_all([text])[0]
    assert "<2de>" in loaded.source.tokens(ids) and UNK_ID not in ids
    assert loaded.target.decode(loaded.target.encode("Der Knochen, des Hundes.")) == (
        "Der Knochen, des Hundes." if kind == "bpe" else "Der Knochen <unk> des Hundes."
    )
    (tmp_path / "text_pipeline.json").write_text('{"tag": 3}')
    with pytest.raises(
        VocabularyError, match=r"text_pipeline.json is damaged: tag must be of type"
    ):
        load_vocabularies(tmp_path)


def test_vocabularies_that_number_otherwise_are_not_joint():
    a, b = (WhitespaceVocabulary([word]) for word in "ab")
    pipelines = (MOSES, TextPipeline())
    assert not Vocabularies.with_pipelines(a, b, pipelines).joint
    again = WhitespaceVocabulary(["a"])
    assert Vocabularies.with_pipelines(a, again, pipelines).joint
    # Two tables of equal vocabularies stay two, as in runs of before there were pipelines.
    assert not Vocabularies(a, again).joint
    assert Vocabularies.with_pipelines(a, a, (TextPipeline(), TextPipeline())) == (a, a)


def piped(config, **fields):
    data = replace(config.data, direction="en-de", source_tag="<2de>", **fields)
    return replace(config, data=data)


def test_prepared_text_is_known_by_what_was_done_to_it(tmp_path):
    config = configuration(tmp_path)
    names = set()
    for number, data in enumerate(
        (config.data, piped(config).data, piped(config, text_normalization="moses").data)
    ):
        folder = prepare(data, 100, tmp_path / str(number))
        names.add(Manifest.read(folder).name)
    assert len(names) == 3
    manifest = Manifest.read(folder)
    assert [asdict(each)["language"] for each in manifest.pipelines] == ["en", "de"]
    source = Corpus.open(folder / "train").vocabularies.source
    assert source.pipeline == TextPipeline.of("moses", "none", "en", "<2de>")
    with pytest.raises(UserError, match="was prepared from other text or with other settings"):
        prepare(config.data, 100, folder)
    with pytest.raises(UserError, match="depends on the language: give --direction"):
        prepare(replace(config.data, word_splitting="moses"), 100, tmp_path / "new")
    assert not (tmp_path / "new" / "train").exists()


def test_run_with_a_pipeline_trains_translates_and_travels(tmp_path):
    config = piped(configuration(tmp_path, steps=2), text_normalization="nfkc")
    run = train(config, tmp_path / "run", progress=False)
    source = run.vocabularies.source
    assert isinstance(source, PipelineVocabulary) and run.config.model.target_vocab_size is None
    corpus = run.training_corpus().source
    starts = [0, *corpus.ends[:-1]]
    assert {int(corpus.tokens[start]) for start in starts} == {*source.inner.encode("<2de>")}
    translator = Translator.load(run.folder)
    # A ligature is two letters in NFKC, and what is blank has no tag.
    assert translator.translate(["w1 w2", "\uff571 w2", ""])[1:] == [
        translator.translate(["w1 w2"])[0], ""
    ]  # fmt: skip
    export_model(run.folder, "safetensors", tmp_path / "one.safetensors")
    assert Translator.load(tmp_path / "one.safetensors").translate(["w3"]) == (
        translator.translate(["w3"])
    )
    with pytest.raises(
        UserError, match=r"prepares text before its vocabulary cuts it .*safetensors"
    ):
        export_model(run.folder, "ctranslate2", tmp_path / "out")
    again = import_model(tmp_path / "one.safetensors", tmp_path / "again")
    assert again.vocabularies.source.pipeline == source.pipeline
    with pytest.raises(RunError, match=r"source_tag None: the vocabulary is that of --init-from"):
        plain = replace(config.data, source_tag=None)
        train(replace(config, data=plain), tmp_path / "new", init_from=run.folder, progress=False)
    with pytest.raises(
        RunError, match=r"data.source_tag = '<2de>' and cannot be resumed with '<2f"
    ):
        other = replace(config.data, source_tag="<2fr>")
        train(replace(config, data=other), run.folder, progress=False)
    # Prepared text brings its pipeline along.
    bare = replace(
        configuration(tmp_path, steps=1).data, train=None, validation=None,
        corpus=str(run.folder / "corpus"),
    )  # fmt: skip
    of_corpus = train(replace(config, data=bare), tmp_path / "corpus", progress=False)
    assert of_corpus.config.data.source_tag == "<2de>"
    assert of_corpus.vocabularies.source.pipeline == source.pipeline
    assert json.loads((tmp_path / "corpus" / "text_pipeline.json").read_text())["tag"] == "<2de>"
    # The same call resumes it, and a corpus whose vocabulary was given says what was done, too.
    again = replace(config, data=bare, train=replace(config.train, steps=3))
    assert train(again, tmp_path / "corpus", progress=False).config.data.source_tag == "<2de>"
    given = replace(piped(config).data, text_normalization="nfkc")
    tuned = train(
        replace(config, data=given), tmp_path / "tuned", init_from=run.folder, progress=False
    )
    assert Manifest.read(tmp_path / "tuned" / "corpus").pipelines[0].tag is None
    other = replace(bare, corpus=str(tuned.folder / "corpus"))
    of_other = train(replace(config, data=other), tmp_path / "other", progress=False)
    assert of_other.config.data.source_tag == "<2de>"


def test_language_code_of_a_line_stands_in_place_of_the_tag():
    model = train_vocabulary("bpe", ["hello world"] * 9, 270).to_bytes()
    inner = PieceVocabulary(model, [">>deu<<", ">>fra<<", *"\u2581helowrd", "\u2581w"])
    vocabulary = PipelineVocabulary(TextPipeline(tag=">>deu<<"), inner)
    assert vocabulary.encode("hello") == inner.encode(">>deu<< hello")
    assert vocabulary.encode(">>fra<< hello") == inner.encode(">>fra<< hello")
    assert vocabulary.encode(">>fra<<") == inner.encode(">>fra<<") == [5]
    assert vocabulary.split_language_code(">>fra<< a") == (">>fra<<", " a")
    # It is written already, and what looks like one is text.
    assert vocabulary.encode(">>deu<< hello") == vocabulary.encode("hello")
    assert vocabulary.encode(">>xxx<< hello")[0] == 4


def test_tag_that_stands_there_already_is_not_put_twice():
    inner = WhitespaceVocabulary(["<2de>", "a"])
    vocabulary = PipelineVocabulary(TextPipeline(tag="<2de>"), inner)
    assert vocabulary.encode("<2de> a") == vocabulary.encode("a") == [4, 5]
    assert vocabulary.encode("<2de>x a") == [4, 2, 5]


def test_vocabulary_leaves_nothing_of_the_one_before(tmp_path):
    """A run that has no checkpoint yet may begin again with other settings."""
    inner, other = WhitespaceVocabulary(["a"]), WhitespaceVocabulary(["b"])
    save_vocabularies(Vocabularies.with_pipelines(inner, other, (MOSES, MOSES)), tmp_path)
    bpe = train_vocabulary("bpe", ["hello world"] * 9, 270)
    save_vocabularies(Vocabularies(bpe, bpe), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.model"]
    save_vocabularies(Vocabularies(inner, inner), tmp_path)
    loaded = load_vocabularies(tmp_path)
    assert loaded.source is loaded.target and loaded.source.to_bytes() == inner.to_bytes()


def test_tokenized_text_stays_tokenized_behind_a_pipeline():
    """Its BLEU is that of tokens; words that Moses has joined are text again."""
    inner = WhitespaceVocabulary(["a"])
    both = [PipelineVocabulary(p, inner) for p in (TextPipeline("nfc"), MOSES)]
    assert [v.is_tokenized for v in (inner, *both)] == [True, True, False]
    hypotheses, references = ["ein Sy@@ stem , das l\u00e4uft ."], ["ein System , das l\u00e4uft ."]
    found = [default_score("BLEU", v, hypotheses, references, "de") for v in both]
    assert found[0].name == "tokenized BLEU" and found[0].value == pytest.approx(100)
    assert found[1].name == "BLEU" and found[1].value < 90
    splitter = LineSplitter(both[0], 9, None, ("de", "zh"), Pairing())
    assert splitter.join(["\u4f60 \u597d", "\u4e16"]) == "\u4f60 \u597d \u4e16"


def test_moses_of_another_version_is_warned_of(caplog):
    text = TextPipeline("moses", language="en", sacremoses="0.0.1").apply("It\u2019s")
    assert text == "It's" and "text was prepared by sacremoses 0.0.1, and " in caplog.text
    caplog.clear()
    pipeline = TextPipeline.of("moses", "none", "en")
    assert pipeline.sacremoses == version("sacremoses") and pipeline.apply("a") == "a"
    assert not caplog.text
    # What a new field does by default changes no name of prepared text.
    assert repr(TextPipeline(tag="<2de>")) == "TextPipeline(tag='<2de>')"


def test_vocabulary_of_moses_serves_its_languages_alone(tmp_path):
    config = configuration(tmp_path, steps=1)
    data = replace(config.data, direction="en-de", text_normalization="moses")
    run = train(replace(config, data=data), tmp_path / "run", progress=False)
    other = replace(data, direction="en-fr")
    with pytest.raises(RunError, match="prepares text in de as Moses does, and this is in fr"):
        train(replace(config, data=other), tmp_path / "new", init_from=run.folder, progress=False)
