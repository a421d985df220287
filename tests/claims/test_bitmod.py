"""The claim bitmod in full (it takes a second), and its rule on figures that are off."""

from __future__ import annotations

from typing import Any

import pytest

from lowbit.claims.bitmod import STATED, bitmod, judge
from lowbit.claims.claim import verdict


def figures(changes: dict[tuple[str, str], float]) -> dict[str, list[dict[str, Any]]]:
    return {"relative mse": [{"numbers": kind, "weights": spec, "relative mse": v} for (kind, spec), v in (STATED | changes).items()]}


def test_the_figures_of_the_record() -> None:
    outcome = bitmod.run(bitmod.least)
    assert outcome.verdict == "holds" and len(outcome.checks) == 12
    assert all(0.97 < row["ratio"] < 1.03 for row in outcome.figures["relative mse"])


@pytest.mark.parametrize(("changes", "failing"), [
    ({}, []),
    ({("normal", "e2m1 g128"): 0.0119 * 1.06}, [0]),
    ({("normal", "bitmod3"): 0.0381 * 0.94}, [8]),
    ({("student t(5)", "bitmod4"): 0.0155}, [5, 10]),
    ({("normal", "bitmod4"): 0.0102, ("normal", "bitmod3"): 0.05}, [2, 8, 9, 11]),
    (dict.fromkeys(STATED, 0.5), list(range(12))),
])  # fmt: skip
def test_each_check_can_fail(changes: dict[tuple[str, str], float], failing: list[int]) -> None:
    checks = judge(figures(changes))
    assert [i for i, met in enumerate(checks.values()) if not met] == failing
    assert verdict(checks) == ("holds" if not failing else "partly" if len(failing) < 12 else "does not hold here")
