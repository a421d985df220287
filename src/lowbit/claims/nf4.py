"""NF4 of QLoRA: better than 4-bit integers and floats on normal weights, its codes used equally often."""

from __future__ import annotations

import torch

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, losses, normal, pairs, relative_mse, subjects
from lowbit.progress import ProgressCallback
from lowbit.quantizers.spec import quantizer

QLORA = Source(
    "QLoRA: Efficient Finetuning of Quantized LLMs",
    "Dettmers, Pagnoni, Holtzman, Zettlemoyer",
    2023,
    "arXiv:2305.14314",
    parts="section 3 (4-bit NormalFloat, double quantization), table 2 (perplexity of Int4, FP4 E2M1, FP4 E3M0, NF4)",
    departs="No record of the literature catalogue. The paper's perplexities are means over models of 125M to 13B.",
)
SINGLE, DOUBLE = "nf4_single", "nf4"
OTHERS = ("int4 flat64", "e2m1 flat64", "e3m0 flat64")


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Errors on 655,360 normal numbers, how often each code is used there, and losses of models."""
    x = normal((10240, 64), "nf4").float()
    errors = []
    for spec in (SINGLE, DOUBLE, *OTHERS):
        errors.append({"weights": spec, "relative mse": round(relative_mse(x, quantizer(spec).quantize(x).dequantize()), 6)})
    codes = torch.bincount(quantizer(SINGLE).quantize(x).codes.reshape(-1).long(), minlength=16)
    shares = [{"code": i, "share": round(float(n) / x.numel(), 5)} for i, n in enumerate(codes)]
    figures: Figures = {"relative mse": errors, "use of codes": shares, "losses": []}
    for subject in subjects(budget, 2.5, figures):
        figures["losses"] += losses(subject, (SINGLE, DOUBLE, *OTHERS), ("rtn",), progress)
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    found = {r["weights"]: r["relative mse"] for r in figures["relative mse"]}
    checks = {f"normal numbers: a smaller error than {other}": found[SINGLE] < found[other] for other in OTHERS}
    shares = [r["share"] for r in figures["use of codes"]]
    checks["normal numbers: every code is used between half and twice as often as 1 in 16"] = min(shares) >= 1 / 32 and max(shares) <= 1 / 8
    rows = figures["losses"]
    for model, text in pairs(rows):
        single, double = (extra(rows, model=model, text=text, weights=w) for w in (SINGLE, DOUBLE))
        for other in OTHERS:
            checks[f"{model}, {text}: loses less than {other}"] = single < extra(rows, model=model, text=text, weights=other)
        checks[f"{model}, {text}: quantized scales cost no more than 5 % of the extra loss"] = double <= 1.05 * single
    return checks


nf4 = register("claim", "nf4", QLORA)(
    Claim(
        statement="For normally distributed weights in blocks of 64 the 16 values of NF4 are each used equally often, NF4 is more "
        "accurate than 4-bit integers and floats, and storing the scales in 8 bits costs nothing.",
        setting="655,360 normal numbers, and models as in the claim gptq (without calibration): flat blocks of 64, scales of the others in "
        "float16.",
        rule="A smaller relative squared error on normal numbers, and a smaller extra loss on every model and text, than int4, e2m1 and "
        "e3m0; every code used between 1/32 and 1/8 of the time; the extra loss with quantized scales at most 1.05 times that without.",
        least=1.0,
        minutes=3.5,
        measure=measure,
        judge=judge,
    )
)
