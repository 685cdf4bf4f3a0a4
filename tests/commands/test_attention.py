"""attention draws heads."""

import pytest
from matplotlib.image import imread


@pytest.mark.parametrize("kind", [pytest.param("png", marks=pytest.mark.slow), "svg"])
def test_attention_command_draws(command, run, tmp_path, kind):
    picture = tmp_path / f"a.{kind}"
    options = ["--source", "w1 w2 w3", "--target", "W3 W2", "--layer", 1, "--head", 2]
    assert command("attention", "--run-dir", run, *options, "--output", picture) == f"{picture}\n"
    if kind == "png":
        assert imread(picture).std() > 0.01
    else:
        assert "<svg" in picture.read_text()
    for wrong, message in (
        (["--head", 3], "head 3: the model has heads 1 to 2"),
        (["--layer", 0], "layer 0: the model has layers 1 to 1"),
        (["--output", "a.txt"], "a.txt is not a picture file"),
        (["--output", "no/a.png"], "there is no folder .*no: make it first"),
    ):
        with pytest.raises(SystemExit, match=message):
            command("attention", "--run-dir", run, "--source", "w1", *wrong)
