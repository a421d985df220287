"""k-bit inference scaling laws: small blocks help at 4 bits and below, not at 8, and floats beat integers at 4 bits."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, losses, pairs, subjects
from lowbit.progress import ProgressCallback

DETTMERS = Source(
    "The case for 4-bit precision: k-bit Inference Scaling Laws",
    "Dettmers, Zettlemoyer",
    2022,
    "arXiv:2212.09720",
    parts="the results on block size and data types; the shares are those of the record of the literature catalogue",
    departs="Loss instead of zero-shot accuracy. That 4 bits are best for a given total needs a family of sizes and is not tried here.",
    records=("kbit-scaling",),
)
SMALL, LARGE = 64, 1024
FLOAT = f"e2m1 flat{SMALL}"


def integer(bits: int, block: int) -> str:
    """Symmetric integers in flat blocks with float16 scales: bits + 16 / block a weight."""
    return f"int{bits} flat{block}"


WEIGHTS = (*(integer(bits, block) for bits in (3, 4, 8) for block in (SMALL, LARGE)), FLOAT)


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Losses of plain rounding at 3, 4 and 8 bits in blocks of 64 and 1024, and of e2m1 in blocks of 64."""
    figures: Figures = {"losses": []}
    for subject in subjects(budget, 3.0, figures):
        figures["losses"] += losses(subject, WEIGHTS, ("rtn",), progress)
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    rows, checks = figures["losses"], {}
    for model, text in pairs(rows):
        asked = [(bits, block) for bits in (3, 4, 8) for block in (SMALL, LARGE)]
        lost = {each: extra(rows, model=model, text=text, weights=integer(*each)) for each in asked}
        for bits in (3, 4):
            checks[f"{model}, {text}: blocks of 64 take at least 5 % off the extra loss at {bits} bits"] = (
                lost[bits, SMALL] <= 0.95 * lost[bits, LARGE]
            )
        gained = {bits: lost[bits, LARGE] - lost[bits, SMALL] for bits in (4, 8)}
        checks[f"{model}, {text}: at 8 bits they take off less than a twentieth of what they do at 4"] = gained[8] < 0.05 * gained[4]
        checks[f"{model}, {text}: e2m1 loses no more than int4"] = extra(rows, model=model, text=text, weights=FLOAT) <= lost[4, SMALL]
    return checks


kbit_scaling = register("claim", "kbit-scaling", DETTMERS)(
    Claim(
        statement="Of all that was tried only small blocks and the data type improve scaling: blocks of 64 help at 4 bits and below but "
        "not at 8, and floats are at least as good as integers at 4 bits.",
        setting="Rounding to nearest in flat blocks of 64 and 1024 with float16 scales, int3, int4, int8 and e2m1, all linear layers "
        "but the output one; models and texts as in the claim gptq, without calibration.",
        rule="For every model and text: the extra loss at 3 and at 4 bits in blocks of 64 is at most 0.95 times that in blocks of 1024; "
        "the difference at 8 bits is below a twentieth of that at 4; the extra loss of e2m1 in blocks of 64 is at most that of int4.",
        least=1.0,
        minutes=4.0,
        measure=measure,
        judge=judge,
    )
)
