"""schedule shows and draws the learning rate."""

import pytest
from matplotlib.image import imread


def test_schedule_shows_and_draws_the_peak(command, tmp_path):
    picture = tmp_path / "rate.png"
    shown = command("schedule", "--preset", "base", "--output", picture).splitlines()[1:-1]
    rates = {int(step): float(rate) for step, rate in map(str.split, shown)}
    assert rates[1] == pytest.approx(512**-0.5 * 4000**-1.5, rel=1e-5)
    assert max(rates, key=rates.get) == 4000
    assert rates[100_000] == pytest.approx(512**-0.5 * 100_000**-0.5, rel=1e-5)
    assert imread(picture).std() > 0.01
