"""The rule of the claim llm-fp4 can fail."""

from __future__ import annotations

from typing import Any

import pytest

from lowbit.claims import llm_fp4 as module
from lowbit.claims.llm_fp4 import judge, llm_fp4


@pytest.mark.parametrize(("shifted", "met"), [(0.3, True), (0.31, False)])
def test_the_check_can_fail(shifted: float, met: bool) -> None:
    rows = [{"model": "m", "text": "t", "solver": s, "extra": e} for s, e in (("rtn", 0.5), ("llm_fp4 + rtn", shifted))]
    assert list(judge({"losses": rows}).values()) == [met]


def test_a_run(monkeypatch: pytest.MonkeyPatch, tiny_subjects: Any) -> None:
    monkeypatch.setattr(module, "subjects", tiny_subjects)
    found = llm_fp4.run(llm_fp4.least).figures["losses"]
    assert [r["solver"] for r in found] == ["rtn", "llm_fp4 + rtn"]
    assert found[0]["extra"] != found[1]["extra"]
