"""LLM-FP4: four-bit inputs with one scale lose far less once channels have exponents that the weights take over."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, losses, pairs, subjects
from lowbit.progress import ProgressCallback

LIU = Source(
    "LLM-FP4: 4-Bit Floating-Point Quantized Transformers",
    "Liu, Liu, Huang, Dong, Cheng",
    2023,
    "arXiv:2310.16836",
    parts="W4A4 with and without pre-shifted exponent biases",
    departs="Small models; weights are quantized after the shift and rounded to nearest under searched ranges (mse), inputs get the range "
    "of the tensor at hand. Only edges whose numbers a norm or a product makes are shifted.",
    records=("llm-fp4",),
)
WEIGHTS, INPUTS = "float4_e2m1fn row mse", "float4_e2m1fn tensor mse"


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Losses with and without the shift."""
    figures: Figures = {"losses": []}
    for subject in subjects(budget, 3.0, figures):
        figures["losses"] += losses(subject, (WEIGHTS,), ("rtn",), progress, ((), ("llm_fp4",)), INPUTS)
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    rows, checks = figures["losses"], {}
    for model, text in pairs(rows):
        plain, shifted = (extra(rows, model=model, text=text, solver=s) for s in ("rtn", "llm_fp4 + rtn"))
        checks[f"{model}, {text}: the shift takes 40 % of the extra loss away"] = shifted <= 0.6 * plain
    return checks


llm_fp4 = register("claim", "llm-fp4", LIU)(
    Claim(
        statement="Exponents for each channel of the inputs, folded into the weights, make four-bit floating-point weights and inputs "
        "usable.",
        setting="e2m1 weights with a scale for each row and e2m1 inputs with one scale for the tensor, both with the least squared error, "
        "without and with the pre-shifted exponents. Texts and calibration as in the claim gptq.",
        rule="For every model and text: the extra loss with the shift is at most 0.6 of that without.",
        least=1.0,
        minutes=4.0,
        measure=measure,
        judge=judge,
    )
)
