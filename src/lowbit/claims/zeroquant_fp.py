"""LoRC of ZeroQuant-FP: how much of what 4 and 3 bits lose a low-rank product gives back."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, losses, pairs, subjects
from lowbit.progress import ProgressCallback

WU = Source(
    "ZeroQuant-FP: A Leap Forward in LLMs Post-Training W4A8 Quantization Using Floating-Point Formats",
    "Wu, Yao, He",
    2023,
    "arXiv:2307.09782",
    parts="the tables with and without LoRC",
    departs="Its low-rank compensation only, on weights; the formats of activations and the constrained scales are not tried.",
    records=("zeroquant-fp",),
)
WEIGHTS = ("int4 g64", "e2m1 g64", "int3 g64")
RTN, GPTQ = "rtn", "gptq"
PLAIN, FITTED = "lorc", "lorc:fit=gram"
ROUNDED = "lorc:inner=rtn"


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Losses with no product, with a plain one and with one fitted to the inputs."""
    figures: Figures = {"losses": []}
    for subject in subjects(budget, 14.0, figures):
        figures["losses"] += losses(subject, WEIGHTS, (RTN, ROUNDED, GPTQ, PLAIN, FITTED), progress)
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    rows, checks = figures["losses"], {}
    for model, text in pairs(rows):
        for weights in WEIGHTS:
            rtn, rounded, gptq, plain, fitted = (
                extra(rows, model=model, text=text, weights=weights, solver=s) for s in (RTN, ROUNDED, GPTQ, PLAIN, FITTED)
            )
            here = f"{model}, {text}, {weights}"
            checks[f"{here}: rank 8 gives back more than a fifth after rtn"] = rounded < 0.8 * rtn
            checks[f"{here}: rank 8 gives back more than a fifth after gptq"] = plain < 0.8 * gptq
            checks[f"{here}: fitted to the inputs it gives back more"] = fitted < plain
    return checks


zeroquant_fp = register("claim", "zeroquant-fp", WU)(
    Claim(
        statement="A product of rank 8 in 8 bits gives back part of what 4-bit weights lose, most of all in small models.",
        setting="int4, e2m1 and int3 in groups of 64, all linear layers but the output one; rank 8 after rounding to nearest and after "
        "gptq, and with the product that is the best for the outputs. Texts and calibration as in the claim gptq.",
        rule="For every model, text and format: the extra loss falls by more than a fifth with rank 8, after rtn and after gptq, and by "
        "more when the product is fitted to the inputs.",
        least=1.5,
        minutes=16.0,
        measure=measure,
        judge=judge,
    )
)
