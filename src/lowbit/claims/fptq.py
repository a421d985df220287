"""FPTQ: with static ranges, inputs evened out by a logarithm are about as good as inputs with a scale for each token."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, losses, pairs, subjects
from lowbit.progress import ProgressCallback

LI = Source(
    "FPTQ: Fine-grained Post-Training Quantization for Large Language Models",
    "Li, Zhang, Li, Yao, Zhang, Chu, Sun, Du, Xie",
    2023,
    "arXiv:2308.15987",
    parts="W4A8 with static inputs: the equalization against SmoothQuant, the rule against dynamic inputs",
    departs="Small models and groups of 64. The share of static layers is not part of the verdict.",
    records=("fptq",),
)
WEIGHTS = "int4 g64"
LAE = "fptq:low=0.0:high=inf + static"
SMOOTH, RULE = "smoothquant + static", "fptq + static:high=150.0"


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Losses with static inputs four ways, and with a scale for each token."""
    figures: Figures = {"losses": []}
    for subject in subjects(budget, 5.0, figures):
        chains = [("static",), *(tuple(words.split(" + ")) for words in (SMOOTH, LAE, RULE))]
        rows = losses(subject, (WEIGHTS,), ("rtn",), progress, chains, "int8 tensor")
        figures["losses"] += [*rows, *losses(subject, (WEIGHTS,), ("rtn",), progress, activations="int8 row")]
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    rows, checks = figures["losses"], {}
    for model, text in pairs(rows):
        named = (f"{LAE} + rtn", f"{SMOOTH} + rtn", f"{RULE} + rtn", "rtn")
        lae, smooth, rule, dynamic = (extra(rows, model=model, text=text, solver=s) for s in named)
        checks[f"{model}, {text}: no more extra loss than smoothquant with static inputs"] = lae <= smooth
        checks[f"{model}, {text}: the rule is within 1 % of the perplexity of dynamic inputs"] = rule - dynamic <= 0.00995
    return checks


fptq = register("claim", "fptq", LI)(
    Claim(
        statement="W4A8 with static ranges loses little when inputs are evened out by the logarithm of their range where that lies between "
        "two bounds, and beyond them each token has its scale.",
        setting="int4 weights in groups of 64, rounded to nearest; int8 inputs with one scale a layer, fixed at the largest calibrated "
        "magnitude: as they are, after smoothquant (0.5), after the equalization everywhere, and by the rule with bounds 15 and 150; then "
        "int8 with a scale for each token. Texts and calibration as in the claim gptq.",
        rule="For every model and text: the equalization everywhere has at most the extra loss of smoothquant, and the rule at most 1 % "
        "more perplexity than a scale for each token.",
        least=1.0,
        minutes=6.0,
        measure=measure,
        judge=judge,
    )
)
