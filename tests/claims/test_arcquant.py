"""The rule of the claim arcquant: every check can fail."""

from __future__ import annotations

from typing import Any

import pytest

from lowbit.claims import arcquant as module
from lowbit.claims.arcquant import ALL, ARC, ROTATED, arcquant, judge

GOOD = {("nvfp4", "rtn"): 0.30, ("nvfp4", f"{ROTATED} + rtn"): 0.22, ("nvfp4", f"{ARC} + rtn"): 0.20,
        ("nvfp4", f"{ALL} + rtn"): 0.105, ("mxfp8", "rtn"): 0.10}  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, [True, True, True]),
    ({("nvfp4", f"{ARC} + rtn"): 0.215}, [False, True, True]),
    ({("nvfp4", f"{ROTATED} + rtn"): 0.19}, [True, False, True]),
    ({("nvfp4", f"{ALL} + rtn"): 0.13}, [True, True, False]),
])  # fmt: skip
def test_each_check_can_fail(changes: dict[Any, float], expected: list[bool]) -> None:
    rows = [{"model": "m", "text": "t", "inputs": i, "solver": s, "extra": e} for (i, s), e in (GOOD | changes).items()]
    assert list(judge({"losses": rows}).values()) == expected


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    found = arcquant.run(arcquant.least).figures["losses"]
    assert [(r["inputs"], r["solver"]) for r in found] == list(GOOD)
    assert len({r["extra"] for r in found}) > 3
