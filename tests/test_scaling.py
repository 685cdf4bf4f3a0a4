"""docs/scaling.md is what its script makes of the compiled steps; no number is typed."""

from pathlib import Path

import pytest

from benchmarks import scaling

DOCS = Path(__file__).parents[1] / "docs"


def test_scaling_page_is_generated():
    assert scaling.report() == (DOCS / "scaling.md").read_text(encoding="utf-8")


def test_scaling_times_are_operations_and_bytes_over_rates():
    """Two devices reduce 100 bytes in a ring, 10 a second each; 40 operations at 20 a second."""
    traffic = [{"kind": "all-reduce", "axes": ["data"], "calls": 1, "bytes": 100}]
    case = {"mesh": {"data": 2, "fsdp": 1, "tensor": 1}, "flops": 40.0, "traffic": traffic}
    chip = {"peak": 20.0, "near": 10.0, "group": 2, "far": 5.0}
    assert scaling.seconds(case, chip) == pytest.approx((2.0, 10.0))
    assert scaling.seconds(case, {**chip, "group": 1}) == pytest.approx((2.0, 20.0))
