"""Other text that is mixed into the training text."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.small_job import configuration, write_text
from transformer_jax import RunConfig
from transformer_jax.data.corpus import Corpus
from transformer_jax.data.manifest import Manifest
from transformer_jax.data.mixture import Mixture, resample
from transformer_jax.data.preparation import prepare
from transformer_jax.data.text import TextFiles
from transformer_jax.errors import UserError
from transformer_jax.run.folder import Run, RunError
from transformer_jax.run.train import train


class Pairs(list):
    identity = "pairs"


def named(letter, count):
    return Pairs((f"{letter}{n}", f"{letter}{n}") for n in range(count))


@pytest.mark.parametrize(
    "count, wanted, found",
    [
        (4, 4, [0, 1, 2, 3]),
        (4, 2, [1, 3]),
        (5, 2, [2, 4]),
        (2, 5, [0, 0, 1, 1, 1]),
        (3, 0, []),
        (0, 0, []),
    ],
)
def test_resampling_is_even(count, wanted, found):
    sources = [source for source, _ in resample(named("", count), count, wanted)]
    assert sources == [str(n) for n in found]


@pytest.mark.parametrize(
    "new, old, ratio, repeats, taken",
    [
        (5, 100, 1.0, 20, 100),
        (5, 100, 0.5, 20, 50),
        (5, 100, 2.0, 10, 100),
        (7, 100, 1.0, 14, 98),
        (100, 5, 1.0, 1, 100),
        (100, 5, 0.1, 1, 10),
        (3, 4, 10.0, 1, 30),
    ],
)
def test_mixture_holds_its_ratio(new, old, ratio, repeats, taken):
    mixture = Mixture(named("n", new), named("o", old), ratio)
    counts = Counter(source for source, _ in mixture)
    assert [counts[f"n{n}"] for n in range(new)] == [repeats] * new
    of_old = [counts[f"o{n}"] for n in range(old)]
    assert sum(of_old) == taken and max(of_old) - min(of_old) <= 1
    assert list(mixture) == list(mixture)


@pytest.mark.parametrize(
    "new, old, ratio, message",
    [
        (3, 0, 1.0, "hold no pair of lines: give others, or mix nothing in"),
        (0, 3, 1.0, "hold no pair of lines"),
        (3, 4, 1e-4, "at a ratio of 0.0001 no pair of .* would be mixed in: raise it"),
    ],
)
def test_mixture_of_nothing_is_refused(new, old, ratio, message):
    with pytest.raises(UserError, match=message):
        list(Mixture(named("n", new), named("o", old), ratio))


def test_mixture_is_prepared_and_known_by_its_files_and_its_ratio(tmp_path):
    data = configuration(tmp_path).data
    mixed = replace(data, mixed_text=write_text(tmp_path / "old", 100, seed=5), mixed_ratio=0.5)
    manifests = []
    for number, each in enumerate((data, mixed, replace(mixed, mixed_ratio=0.25))):
        folder = prepare(each, 100, tmp_path / str(number))
        manifests.append(Manifest.read(folder))
        assert len(Corpus.open(folder / "train")) == [400, 600, 500][number]
        assert manifests[-1].train == TextFiles(*data.train).identity
    assert manifests[0].mixed is None
    assert manifests[1].mixed == f"{TextFiles(*mixed.mixed_text).identity} 0.5"
    assert len({manifest.name for manifest in manifests}) == 3
    assert Manifest.read(tmp_path / "1").changed_file(mixed) is None
    other = replace(mixed, mixed_text=write_text(tmp_path / "other", 100, seed=6))
    assert Manifest.read(tmp_path / "1").changed_file(other) == other.mixed_text[0]


def test_run_keeps_what_was_mixed_in(tmp_path):
    config = configuration(tmp_path, steps=2)
    old = write_text(tmp_path / "old", 100, seed=5)

    def with_text(steps, **fields):
        return replace(
            config,
            data=replace(config.data, **fields),
            train=replace(config.train, steps=steps),
        )

    with pytest.raises(UserError, match=r"mixed_ratio 0.5: there is no text to mix in: give --mix"):
        train(with_text(2, mixed_ratio=0.5), tmp_path / "run", progress=False)
    train(with_text(2, mixed_text=old, mixed_ratio=0.5), tmp_path / "run", progress=False)
    with pytest.raises(RunError, match=r"data.mixed_ratio = 0.5 and cannot be resumed with 1.0"):
        train(with_text(3, mixed_text=old), tmp_path / "run", progress=False)
    other = write_text(tmp_path / "other", 100, seed=6)
    with pytest.raises(RunError, match=r"was prepared from another text than .*other/src holds"):
        train(with_text(3, mixed_text=other, mixed_ratio=0.5), tmp_path / "run", progress=False)
    run = train(with_text(3, mixed_text=old, mixed_ratio=0.5), tmp_path / "run", progress=False)
    assert len(run.training_corpus()) == 600
    of_corpus = replace(
        with_text(4, mixed_text=None).data, train=None, validation=None,
        corpus=str(tmp_path / "run" / "corpus"),
    )  # fmt: skip
    resumed = replace(with_text(4), data=of_corpus)
    assert train(resumed, tmp_path / "run", progress=False).config.data.mixed_ratio == 0.5
    assert RunConfig.from_json(run.config.to_json()) == run.config
    later = run.config.without_text().data
    assert (later.mixed_text, later.mixed_ratio) == (None, 1.0)
    train(config, tmp_path / "plain", progress=False)
    with pytest.raises(RunError, match=r"was begun without a mixed text and cannot take one now: "):
        train(with_text(3, mixed_text=old), tmp_path / "plain", progress=False)
    assert Run.open(tmp_path / "plain").config.data.mixed_text is None
