"""The rule of the claim dint-aqas: every check can fail."""

from __future__ import annotations

from typing import Any

import pytest

from lowbit.claims import dint_aqas as module
from lowbit.claims.dint_aqas import LONG, OURS, SHORT, THEIRS, dint_aqas, judge

GOOD = {"int4": (0.16, 0.0138), "dint4": (0.093, 0.0134), "ours": 0.4, "theirs": 0.5, "short": 0.1, "long": 0.2}


@pytest.mark.parametrize(("changes", "failed"), [
    ({}, None), ({"int4": (0.18, 0.0138)}, 0), ({"dint4": (0.08, 0.0134)}, 1), ({"dint4": (0.093, 0.014)}, 2), ({"ours": 0.41}, 3),
    ({"long": 0.1}, 4),
])  # fmt: skip
def test_each_check_can_fail(changes: dict[str, Any], failed: int | None) -> None:
    g: dict[str, Any] = GOOD | changes
    numbers = [
        {"format": f"{f} g128", "stated zeros": stated, "zeros": g[f][0], "relative mse": g[f][1]}
        for f, stated in (("int4", 0.16), ("dint4", 0.093))
    ]
    same = {"model": "m", "text": "t"}
    losses = [{**same, "weights": w, "solver": s, "extra": g[n]} for (w, s), n in ((OURS, "ours"), (THEIRS, "theirs"))]
    lengths = [{**same, "length": n, "extra": g[name]} for n, name in ((SHORT, "short"), (LONG, "long"))]
    checks = judge({"normal numbers": numbers, "losses": losses, "calibration length": lengths})
    assert list(checks.values()) == [i != failed for i in range(5)]


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    figures = dint_aqas.run(dint_aqas.least).figures
    assert [(r["weights"], r["solver"]) for r in figures["losses"]] == [OURS, THEIRS]
    assert [r["length"] for r in figures["calibration length"]] == [SHORT, LONG]
    assert len({r["extra"] for r in figures["calibration length"]}) == 2
