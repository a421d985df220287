"""The rule of the claim kv-adaquant: every check can fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from lowbit.claims import kv_adaquant as module
from lowbit.claims.claim import Budget, Figures, verdict
from lowbit.claims.kv_adaquant import WIDTHS, judge, kv_adaquant
from lowbit.claims.subjects import SMOLLM2, Subject

EXTRA = {(8, 8): 0.0, (4, 4): 0.02, (4, 2): 0.1, (3, 3): 0.12, (2, 4): 0.5}
LAYERS = [{"layer": i, "norm ratio": r, "K2 loss - V2 loss": g} for i, (r, g) in enumerate([(1.0, 0.0), (2.0, 0.1), (4.0, 0.3)])]


def figures(token: dict[Any, float] | None = None, channel: dict[Any, float] | None = None, layers: Any = LAYERS) -> Figures:
    rows = [
        {"model": "m", "text": "t", "layout": layout, "keys": k, "values": v, "perplexity": 9.0, "extra": (EXTRA | (changes or {}))[k, v]}
        for layout, changes in (("token", token), ("channel", channel))
        for k, v in WIDTHS
    ]
    return {"caches": rows, "layers": layers}


@pytest.mark.parametrize(("changes", "expected", "found"), [
    ({}, [True, True, True], "holds"),
    ({"token": {(4, 2): 0.3}}, [False, True, True], "partly"),
    ({"channel": {(2, 4): 0.1}}, [True, False, True], "partly"),
    ({"layers": [LAYERS[0] | {"norm ratio": 9.0}, *LAYERS[1:]]}, [True, True, False], "partly"),
    ({"layers": []}, [True, True], "holds"),
])  # fmt: skip
def test_each_check_can_fail(changes: dict[str, Any], expected: list[bool], found: str) -> None:
    checks = judge(figures(**changes))
    assert list(checks.values()) == expected
    assert verdict(checks) == found


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    def named(budget: Budget, minutes: float, figures: Figures) -> Iterator[Subject]:
        for subject in tiny_subjects(budget, minutes, figures):
            yield replace(subject, name=SMOLLM2)

    monkeypatch.setattr(module, "subjects", named)
    outcome = kv_adaquant.run(kv_adaquant.least)
    rows = outcome.figures["caches"]
    assert [(r["keys"], r["values"]) for r in rows] == [*WIDTHS, *WIDTHS]
    assert abs(rows[0]["extra"]) < abs(rows[4]["extra"]), "2-bit keys cost less than 8-bit ones"
    assert [r["layer"] for r in outcome.figures["layers"]] == [0]
    assert outcome.figures["layers"][0]["norm ratio"] > 0
