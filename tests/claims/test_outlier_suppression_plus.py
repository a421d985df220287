"""The rule of the claim outlier-suppression-plus: every check can fail; the errors are those of a layer."""

from __future__ import annotations

import pytest

from lowbit.claims.outlier_suppression_plus import judge, outlier_suppression_plus

GOOD = {"none": 1.0, "smoothquant": 0.5, "shift": 0.4, "scale": 0.3, "shift and scale": 0.2}


@pytest.mark.parametrize(("kind", "changes", "expected"), [
    ("off zero", {}, [True, True]),
    ("off zero", {"scale": 0.1}, [False, True]),
    ("off zero", {"shift": 0.6}, [True, False]),
    ("wide", {"shift": 0.95}, [True, True]),
    ("wide", {"shift": 0.8}, [True, False]),
])  # fmt: skip
def test_each_check_can_fail(kind: str, changes: dict[str, float], expected: list[bool]) -> None:
    checks = judge({"relative errors": [{"outliers": kind, "bits": 8, **GOOD, **changes}]})
    assert list(checks.values()) == expected


def test_a_run() -> None:
    rows = outlier_suppression_plus.run(outlier_suppression_plus.least).figures["relative errors"]
    assert [(r["outliers"], r["bits"]) for r in rows] == [(kind, bits) for kind in ("off zero", "wide") for bits in (8, 6)]
    for r in rows:
        assert all(0 < r[n] < 0.1 for n in GOOD)
    assert 8 < rows[1]["none"] / rows[0]["none"] < 32  # two bits are a factor of 16
