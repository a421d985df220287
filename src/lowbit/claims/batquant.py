"""BATQuant: with MXFP4 weights and inputs, learned matrices for blocks of 32 lose least."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, losses, pairs, subjects
from lowbit.progress import ProgressCallback

BATQUANT = Source(
    "BATQuant: Outlier-resilient MXFP4 Quantization via Learnable Block-wise Optimization",
    "Li, Zhang, Xia, Bao, Bai, Dong, Yu",
    2026,
    "arXiv:2603.16590",
    parts="the comparison of global and block-wise transforms, the size of blocks, the Kronecker form",
    departs="Small models, weights rounded to nearest instead of GPTQ, no learned clipping.",
    records=("batquant",),
)
GLOBAL, BLOCKS, LEARNED, FULL = "hadamard", "hadamard:size=32", "batquant", "batquant:shared=0"
SMALLER, LARGER = "batquant:size=16", "batquant:size=128"


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Losses in MXFP4 with each transform."""
    figures: Figures = {"losses": []}
    chains = ((), (GLOBAL,), (BLOCKS,), (LEARNED,), (FULL,), (SMALLER,), (LARGER,))
    for subject in subjects(budget, 14.0, figures):
        figures["losses"] += losses(subject, ("mxfp4",), ("rtn",), progress, chains, "mxfp4")
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    rows, checks = figures["losses"], {}
    for model, text in pairs(rows):
        found = {r["solver"].removesuffix("rtn").removesuffix(" + "): r for r in rows if r["model"] == model and r["text"] == text}
        loss = {name: extra([row]) for name, row in found.items()}
        checks[f"{model}, {text}: a global rotation does not help"] = loss[GLOBAL] >= loss[""]
        checks[f"{model}, {text}: rotations of blocks do"] = loss[BLOCKS] < loss[""]
        checks[f"{model}, {text}: learned blocks lose less than rotated ones"] = loss[LEARNED] < loss[BLOCKS]
        checks[f"{model}, {text}: the Kronecker form is within 10 % of full matrices"] = loss[LEARNED] <= 1.1 * loss[FULL]
        checks[f"{model}, {text}: blocks of 16 and of 128 lose more than those of 32"] = loss[LEARNED] < min(loss[SMALLER], loss[LARGER])
    return checks


batquant = register("claim", "batquant", BATQUANT)(
    Claim(
        statement="A global rotation spreads outliers over all blocks and does not help MXFP4; transforms of the blocks of 32 do, learned "
        "ones most, and a Kronecker form with one factor for all blocks is about as good as full matrices.",
        setting="MXFP4 weights and inputs (floor rule of OCP), rounded to nearest, after no transform, one Hadamard matrix of all "
        "channels, one of each 32, and learned matrices: Kronecker, full, Kronecker of 16 and of 128. 60 steps of Adam on 16 rows of each "
        "calibration sequence, started at a Hadamard matrix. Texts and calibration as in the claim gptq.",
        rule="For every model and text, of the extra loss: global rotation at least that of none; block rotation below none; learned below "
        "block rotation; Kronecker at most 1.1 of full; that of 32 below those of 16 and 128.",
        least=1.5,
        minutes=16.0,
        measure=measure,
        judge=judge,
    )
)
