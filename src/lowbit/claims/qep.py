"""QEP in front of GPTQ: at 2 and 3 bits it pays to correct a weight for what earlier layers have lost."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, losses, pairs, subjects
from lowbit.progress import ProgressCallback

ARAI = Source(
    "Quantization Error Propagation: Revisiting Layer-Wise Post-Training Quantization",
    "Arai, Ichikawa",
    2025,
    "arXiv:2504.09629",
    parts="the tables of perplexity at 2 to 4 bits, GPTQ with and without QEP",
    departs="Small models, groups of 64, few calibration sequences; the paper's models have 7B and more.",
    records=("qep",),
)
THREE, TWO = "int3 g64", "int2 g64 asym"
GPTQ, QEP = "gptq:order=act", "qep:inner=(gptq:order=act)"


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Losses with and without the correction at 3 and 2 bits."""
    figures: Figures = {"losses": []}
    for subject in subjects(budget, 8.0, figures):
        figures["losses"] += losses(subject, (THREE, TWO), (GPTQ, QEP), progress)
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    rows, checks = figures["losses"], {}
    for model, text in pairs(rows):
        gained = {}
        for weights in (THREE, TWO):
            plain, corrected = (extra(rows, model=model, text=text, weights=weights, solver=s) for s in (GPTQ, QEP))
            gained[weights] = plain - corrected
            checks[f"{model}, {text}: qep loses less than gptq at {weights}"] = corrected < plain
        checks[f"{model}, {text}: it gains more at 2 bits than at 3"] = gained[TWO] > gained[THREE]
    return checks


qep = register("claim", "qep", ARAI)(
    Claim(
        statement="Correcting each weight for the error of the layers before it improves GPTQ consistently, most of all at 2 and 3 bits.",
        setting="gptq in act-order, alone and after the correction (strength 0.5, damping 1, none for down_proj), int3 in symmetric "
        "groups of 64 and 2 bits with a zero point. Texts and calibration as in the claim gptq.",
        rule="For every model and text: the extra loss with the correction is below that without, at 3 bits and at 2 bits, and the "
        "difference is larger at 2.",
        least=1.5,
        minutes=10.0,
        measure=measure,
        judge=judge,
    )
)
