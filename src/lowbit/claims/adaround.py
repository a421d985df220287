"""AdaRound against rounding to nearest and at random, on integers and on floats."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, losses, pairs, subjects
from lowbit.progress import ProgressCallback

NAGEL = Source(
    "Up or Down? Adaptive Rounding for Post-Training Quantization",
    "Nagel, Amjad, van Baalen, Louizos, Blankevoort",
    2020,
    "arXiv:2004.10568",
    parts="nearest against learned and stochastic rounding; for floats the scale-aware gate of FP4DiT, arXiv:2503.15465",
    departs="Language models, loss in place of accuracy; blocks in place of layers, 80 steps in place of thousands.",
    records=("adaround", "fp4dit"),
)
INTEGERS = ("int4 g64", "int3 g64")
FLOAT = "e2m1 g64"
RTN, PLAIN, SCALED = "rtn", "adaround", "adaround:gate=scaled"
AT_RANDOM = " round=stochastic"


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Losses of nearest, learned and, for integers, random rounding."""
    figures: Figures = {"losses": []}
    for subject in subjects(budget, 45.0, figures):
        figures["losses"] += losses(subject, (*INTEGERS, FLOAT), (RTN, PLAIN, SCALED), progress)
        figures["losses"] += losses(subject, [w + AT_RANDOM for w in INTEGERS], (RTN,), progress)
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    rows, checks = figures["losses"], {}
    for model, text in pairs(rows):

        def of(weights: str, solver: str, model: str = model, text: str = text) -> float:
            return extra(rows, model=model, text=text, weights=weights, solver=solver)

        for weights in (*INTEGERS, FLOAT):
            checks[f"{model}, {text}: adaround below nearest at {weights}"] = of(weights, PLAIN) < of(weights, RTN)
        for weights in INTEGERS:
            checks[f"{model}, {text}: nearest below a random rounding at {weights}"] = of(weights, RTN) < of(weights + AT_RANDOM, RTN)
        checks[f"{model}, {text}: the scaled gate below the plain one at {FLOAT}"] = of(FLOAT, SCALED) < of(FLOAT, PLAIN)
    return checks


adaround = register("claim", "adaround", NAGEL)(
    Claim(
        statement="Rounding to nearest is not the best rounding: choosing up or down for each weight by the output's error loses less. A "
        "gate that is scaled with the step does better than a plain one where steps differ, as in e2m1.",
        setting="int4, int3 and e2m1 in groups of 64, all linear layers but the output one; 80 steps of two sequences on the error of each "
        "block. Random rounding is one draw. Texts and calibration as in the claim gptq.",
        rule="For every model and text: adaround loses less than nearest with each format, nearest less than a random rounding with "
        "integers, and the scaled gate less than the plain one with e2m1.",
        least=2.0,
        minutes=47.0,
        measure=measure,
        judge=judge,
    )
)
