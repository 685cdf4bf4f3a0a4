"""What benchmarks.accelerator holds other devices to holds on the CPU that recorded it."""

import math

import pytest

from benchmarks import golden


@pytest.mark.parametrize("dtype", golden.LIMITS)
def test_recorded_numbers_are_those_of_the_code(dtype):
    compared = list(golden.compare(dtype))
    assert [each.name for each in compared if not each.holds] == []
    names = {each.name for each in compared}
    assert {"logits", "loss", "gradient embedding"} <= names
    assert ("beam tokens" in names) == (dtype == "float32")


def test_distance_that_is_no_number_does_not_hold():
    assert golden.Comparison("", 1e-4, 1e-4).holds
    assert not golden.Comparison("", math.nan, 1e-4).holds
    assert not golden.Comparison("", 2e-4, 1e-4).holds
