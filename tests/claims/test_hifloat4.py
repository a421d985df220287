"""The claim hifloat4 in full (it takes a second), and its rule on figures that are off."""

from __future__ import annotations

from typing import Any

import pytest

from lowbit.claims.claim import verdict
from lowbit.claims.hifloat4 import STATED, hifloat4, judge


def figures(changes: dict[tuple[str, str], float]) -> dict[str, list[dict[str, Any]]]:
    return {"relative mse": [{"numbers": kind, "format": name, "relative mse": v} for (kind, name), v in (STATED | changes).items()]}


def test_the_figures_of_the_record() -> None:
    outcome = hifloat4.run(hifloat4.least)
    assert outcome.verdict == "holds" and len(outcome.checks) == 8
    assert all(0.99 < row["ratio"] < 1.01 for row in outcome.figures["relative mse"])


@pytest.mark.parametrize(("changes", "failing"), [
    ({}, []),
    ({("normal", "nvfp4"): 0.00904 * 1.031}, [1]),
    ({("student t(4)", "mxfp4"): 0.0172 * 0.969}, [5]),
    ({("student t(4)", "hifloat4"): 0.00846}, [3, 7]),
    ({("normal", "hifloat4"): 0.02}, [0, 6]),
    (dict.fromkeys(STATED, 0.5), list(range(8))),
])  # fmt: skip
def test_each_check_can_fail(changes: dict[tuple[str, str], float], failing: list[int]) -> None:
    checks = judge(figures(changes))
    assert [i for i, met in enumerate(checks.values()) if not met] == failing
    assert verdict(checks) == ("holds" if not failing else "partly" if len(failing) < 8 else "does not hold here")
