"""SignRound against GPTQ and rounding to nearest, and its two parts alone."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, losses, pairs, subjects
from lowbit.progress import ProgressCallback

CHENG = Source(
    "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs",
    "Cheng, Zhang, Shen, Cai, He, Lv, Liu",
    2023,
    "arXiv:2309.05516",
    parts="the tables at 4, 3 and 2 bits against RTN and GPTQ; the ablation of rounding and ranges",
    departs="Small models in groups of 64, 40 steps of two sequences; in the paper 7B and more, 200 to 400 steps of 8 sequences of 2048.",
    records=("signround",),
)
FOUR, THREE, TWO = "int4 g64", "int3 g64", "int2 g64 asym"
RTN, GPTQ, BOTH, ROUNDING, RANGES = "rtn", "gptq", "signround", "signround:learn=rounding", "signround:learn=ranges"


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Losses of all five at 4, 3 and 2 bits."""
    figures: Figures = {"losses": []}
    for subject in subjects(budget, 40.0, figures):
        figures["losses"] += losses(subject, (FOUR, THREE, TWO), (RTN, GPTQ, BOTH, ROUNDING, RANGES), progress)
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    rows, checks = figures["losses"], {}
    for model, text in pairs(rows):

        def of(weights: str, solver: str, model: str = model, text: str = text) -> float:
            return extra(rows, model=model, text=text, weights=weights, solver=solver)

        for weights in (THREE, TWO):
            checks[f"{model}, {text}: signround below gptq at {weights}"] = of(weights, BOTH) < of(weights, GPTQ)
            checks[f"{model}, {text}: gptq below rtn at {weights}"] = of(weights, GPTQ) < of(weights, RTN)
        checks[f"{model}, {text}: signround below rtn at {FOUR}"] = of(FOUR, BOTH) < of(FOUR, RTN)
        checks[f"{model}, {text}: ranges alone gain less than rounding alone at {FOUR}"] = of(FOUR, RANGES) > of(FOUR, ROUNDING)
        checks[f"{model}, {text}: ranges alone gain more than rounding alone at {TWO}"] = of(TWO, RANGES) < of(TWO, ROUNDING)
    return checks


signround = register("claim", "signround", CHENG)(
    Claim(
        statement="Learning how weights are rounded, and the range of each block, with signed gradients beats rounding to nearest widely "
        "and competes with GPTQ; at 2 and 3 bits it is ahead. Ranges matter most where bits are few.",
        setting="int4 and int3 in symmetric groups of 64, 2 bits with a zero point, all linear layers but the output one; 40 steps of two "
        "sequences. Texts and calibration as in the claim gptq.",
        rule="For every model and text: signround loses less than gptq and gptq less than rtn at 3 and 2 bits, signround less than rtn at "
        "4; ranges alone gain less than rounding alone at 4 bits, and more at 2.",
        least=2.0,
        minutes=42.0,
        measure=measure,
        judge=judge,
    )
)
