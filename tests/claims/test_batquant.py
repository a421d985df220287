"""The rule of the claim batquant: every check can fail."""

from __future__ import annotations

from typing import Any

import pytest

from lowbit.claims import batquant as module
from lowbit.claims.batquant import BLOCKS, FULL, GLOBAL, LARGER, LEARNED, SMALLER, batquant, judge

GOOD = {"": 0.5, GLOBAL: 0.6, BLOCKS: 0.4, LEARNED: 0.3, FULL: 0.29, SMALLER: 0.33, LARGER: 0.35}


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, [True, True, True, True, True]),
    ({GLOBAL: 0.45}, [False, True, True, True, True]),
    ({"": 0.39, GLOBAL: 0.4}, [True, False, True, True, True]),
    ({BLOCKS: 0.29}, [True, True, False, True, True]),
    ({FULL: 0.2}, [True, True, True, False, True]),
    ({SMALLER: 0.29}, [True, True, True, True, False]),
    ({LARGER: 0.29}, [True, True, True, True, False]),
])  # fmt: skip
def test_each_check_can_fail(changes: dict[str, float], expected: list[bool]) -> None:
    named = {" + ".join(filter(None, (chain, "rtn"))): e for chain, e in (GOOD | changes).items()}
    rows = [{"model": "m", "text": "t", "solver": s, "extra": e} for s, e in named.items()]
    assert list(judge({"losses": rows}).values()) == expected


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    found = batquant.run(batquant.least).figures["losses"]
    assert len(found) == len(GOOD) == len({r["solver"] for r in found}) == len({r["extra"] for r in found})
