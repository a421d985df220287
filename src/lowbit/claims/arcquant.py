"""ARCQuant: with residual channels NVFP4 weights and inputs lose less than without, and than after a rotation."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, losses, pairs, subjects
from lowbit.progress import ProgressCallback

MENG = Source(
    "ARCQuant: Boosting NVFP4 Quantization with Augmented Residual Channels for LLMs",
    "Meng, Luo, Zhao, Liu, Zhang, Ma",
    2026,
    "arXiv:2601.07475",
    parts="perplexity with NVFP4 weights and inputs, against rounding and rotations",
    departs="Small models, weights rounded to nearest, 32 or 8 calibration sequences of 512 tokens.",
    records=("arcquant",),
)
ARC, ALL, ROTATED = "arcquant", "arcquant:channels=65536", "hadamard:size=16"


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Losses with inputs in NVFP4 four ways, and in MXFP8."""
    figures: Figures = {"losses": []}
    for subject in subjects(budget, 5.0, figures):
        chains = ((), (ROTATED,), (ARC,), (ALL,))
        figures["losses"] += [{**r, "inputs": "nvfp4"} for r in losses(subject, ("nvfp4",), ("rtn",), progress, chains, "nvfp4")]
        figures["losses"] += [{**r, "inputs": "mxfp8"} for r in losses(subject, ("nvfp4",), ("rtn",), progress, activations="mxfp8")]
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    rows, checks = figures["losses"], {}
    for model, text in pairs(rows):
        named = [("nvfp4", "rtn"), ("nvfp4", f"{ROTATED} + rtn"), ("nvfp4", f"{ARC} + rtn"), ("nvfp4", f"{ALL} + rtn"), ("mxfp8", "rtn")]
        none, rotated, arc, every, eight = (extra(rows, model=model, text=text, inputs=i, solver=s) for i, s in named)
        checks[f"{model}, {text}: residual channels take 30 % of the extra loss away"] = arc <= 0.7 * none
        checks[f"{model}, {text}: no more extra loss than after a rotation"] = arc <= rotated
        checks[f"{model}, {text}: with all channels as good as inputs in eight bits"] = every <= eight + 0.1 * abs(none - eight)
    return checks


arcquant = register("claim", "arcquant", MENG)(
    Claim(
        statement="Residual channels bring NVFP4 weights and inputs close to 16 bits, closer than rounding alone and than rotations.",
        setting="NVFP4 weights and inputs, rounded to nearest: as they are; after a Hadamard matrix on each block of 16; with residual "
        "channels by the rule (numbers above an eighth of their token's largest, in steps of 64); with all channels residual; and inputs "
        "in MXFP8. Weights are never compensated. Texts and calibration as in the claim gptq.",
        rule="For every model and text: the extra loss with residual channels is at most 0.7 of that without, and at most that after the "
        "rotation; with all channels it lies within a tenth of the way from eight to four bits above that of inputs in MXFP8.",
        least=1.0,
        minutes=6.0,
        measure=measure,
        judge=judge,
    )
)
