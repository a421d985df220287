"""The rule of the claim matgptq: every check can fail."""

from __future__ import annotations

from typing import Any

import pytest

from lowbit.claims import matgptq as module
from lowbit.claims.claim import verdict
from lowbit.claims.matgptq import WIDTHS, judge, matgptq

GOOD = {3: (0.3, 0.2, 0.18), 4: (0.1, 0.06, 0.05), 6: (0.01, 0.02, 0.005), 8: (0.0, 0.005, 0.0)}


@pytest.mark.parametrize(("bits", "values", "failing"), [
    (3, (0.3, 0.2, 0.18), []),
    (3, (0.26, 0.2, 0.18), [0]),
    (4, (0.06, 0.06, 0.05), [1]),
    (3, (0.3, 0.2, 0.15), [2]),
    (4, (0.1, 0.06, 0.04), [3]),
    (6, (0.01, 0.07, 0.005), [4]),
    (8, (0.0, 0.011, 0.0), [5]),
])  # fmt: skip
def test_each_check_can_fail(bits: int, values: tuple[float, float, float], failing: list[int]) -> None:
    table = [
        {"model": "m", "bits": b, "sliced gptq": x, "sliced matgptq": y, "gptq": z} for b, (x, y, z) in (GOOD | {bits: values}).items()
    ]
    checks = judge({"output error": table})
    assert [i for i, met in enumerate(checks.values()) if not met] == failing
    assert verdict(checks) == ("partly" if failing else "holds")


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    outcome = matgptq.run(matgptq.least)
    rows = outcome.figures["output error"]
    assert [r["bits"] for r in rows] == list(WIDTHS)
    assert rows[0]["sliced matgptq"] < rows[0]["sliced gptq"]
