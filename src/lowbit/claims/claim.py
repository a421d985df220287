"""The contract of a claim: what a source states, an experiment that can fail, and a rule that makes figures a verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lowbit.errors import DataError
from lowbit.progress import ProgressCallback

Verdict = Literal["holds", "partly", "does not hold here"]

#: name of a table -> its rows; a row holds numbers and words by column. JSON knows all of it.
Figures = dict[str, list[dict[str, Any]]]

#: what was checked, in words -> whether it is so
Checks = dict[str, bool]


class Budget:
    """CPU minutes of this process that a claim may take, over all threads; counted from when it is made.

    Args:
        minutes: above 0.
    """

    def __init__(self, minutes: float):
        if not minutes > 0:
            raise DataError(f"a budget of {minutes:g} minutes; give a number above 0")
        self.minutes = minutes
        self._start = time.process_time()

    @property
    def spent(self) -> float:
        """CPU minutes since the start."""
        return (time.process_time() - self._start) / 60

    def allows(self, minutes: float) -> bool:
        """Whether work of about so many CPU minutes still fits."""
        return self.spent + minutes <= self.minutes


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Args:
        text: the verdict in a sentence: how many checks passed, and which did not.
    """

    verdict: Verdict
    figures: Figures
    checks: Checks
    text: str


@dataclass(frozen=True)
class Claim:
    """One statement and how it is tried. Registered under the id of its record, or its source's own name.

    Args:
        statement: what the source states, in our words.
        setting: what we do, on what, and what differs from the source.
        rule: how figures become checks, in words; ``judge`` does the same.
        least: CPU minutes without what is optional; less than that is refused.
        minutes: CPU minutes with everything.
        measure: the experiment; leaves out what the budget does not allow and says so under ``left out``.
        judge: figures -> checks; it sees nothing else, so it can be run again on stored figures.
    """

    statement: str
    setting: str
    rule: str
    least: float
    minutes: float
    measure: Callable[[Budget, ProgressCallback | None], Figures]
    judge: Callable[[Figures], Checks]

    def run(self, budget: float, progress: ProgressCallback | None = None) -> Outcome:
        """Measure within a budget and judge.

        Args:
            budget: CPU minutes.

        Raises:
            DataError: the budget is below ``least``.
        """
        if budget < self.least:
            takes = f"{self.least:g} at least, {self.minutes:g} with everything"
            raise DataError(f"a budget of {budget:g} CPU minutes; this claim takes {takes}")
        figures = self.measure(Budget(budget), progress)
        checks = self.judge(figures)
        return Outcome(verdict(checks), figures, checks, summary(checks))


def verdict(checks: Mapping[str, bool]) -> Verdict:
    """``holds`` when every check is met, ``does not hold here`` when none is, ``partly`` otherwise.

    Raises:
        DataError: nothing was checked.
    """
    if not checks:
        raise DataError("no figure could be checked; raise the budget")
    return "holds" if all(checks.values()) else "partly" if any(checks.values()) else "does not hold here"


def summary(checks: Mapping[str, bool]) -> str:
    """``5 of 6 checks are met; not met: ...``."""
    failed = [words for words, met in checks.items() if not met]
    count = f"{len(checks) - len(failed)} of {len(checks)} checks are met"
    return f"{count}; not met: {'; '.join(failed)}" if failed else count
