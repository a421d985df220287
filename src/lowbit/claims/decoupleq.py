"""decoupleQ: codes and scales in turn at 2 and 3 bits, layer by layer and in the model's loss."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, layer_problems, losses, output_loss, pairs, subjects
from lowbit.philox import Key
from lowbit.progress import ProgressCallback
from lowbit.quantizers.grid import QTensor
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.refit import refit
from lowbit.solvers.solver import solver

GUO = Source(
    "decoupleQ: Towards 2-bit Post-Training Uniform Quantization via decoupling Parameters into Integer and Floating Points",
    "Guo et al.",
    2024,
    "arXiv:2404.12759",
    parts="the alternating minimization at 2 bits against GPTQ",
    departs="Small models in groups of 64; without the training of blocks.",
    records=("decoupleq",),
)
TWO, THREE = "int2 g64 hqq offset=float16", "int3 g64 hqq offset=float16"
GPTQ, ONE, FOUR = "gptq", "decoupleq:iterations=1", "decoupleq"
ROUNDS = (1, 2, 4)


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Losses of the model, and output errors of the layers of its first block."""
    layers: list[dict[str, Any]] = []
    figures: Figures = {"losses": [], "output error": layers}
    for subject in subjects(budget, 12.0, figures):
        for spec in (TWO, THREE):
            q = quantizer(spec)
            for name, W, H in layer_problems(subject, "*layers.0.*"):
                stats = {"gram": H}
                gptq = solver(GPTQ).solve(W, q, stats, Key(0, name))
                assert isinstance(gptq.terms[0], QTensor)
                row: dict[str, Any] = {"model": subject.name, "weights": spec, "layer": name}
                row["gptq"] = round(output_loss(W, gptq.dequantize(), H), 6)
                row["gptq and one refit"] = round(output_loss(W, refit(W, gptq.terms[0], H).dequantize(), H), 6)
                for k in ROUNDS:
                    found = solver(f"decoupleq:iterations={k}").solve(W, q, stats, Key(0, name))
                    row[f"decoupleq {k}"] = round(output_loss(W, found.dequantize(), H), 6)
                layers.append(row)
        figures["losses"] += losses(subject, (TWO, THREE), (GPTQ, ONE, FOUR), progress)
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    rows, checks = figures["losses"], {}
    for model, weights in dict.fromkeys((r["model"], r["weights"]) for r in figures["output error"]):
        own = [r for r in figures["output error"] if (r["model"], r["weights"]) == (model, weights)]
        total = {k: sum(r[k] for r in own) for k in own[0] if isinstance(own[0][k], float)}
        rounds = [total[f"decoupleq {k}"] for k in ROUNDS]
        checks[f"{model}, {weights}: more rounds lose no more of the layers' outputs"] = all(b <= 1.001 * a for a, b in pairwise(rounds))
        if weights == TWO:
            checks[f"{model}, {weights}: one refit takes off more than 10 %"] = total["gptq and one refit"] < 0.9 * total["gptq"]
    for model, text in pairs(rows):
        for weights in (TWO, THREE):
            at = [extra(rows, model=model, text=text, weights=weights, solver=s) for s in (GPTQ, ONE, FOUR)]
            checks[f"{model}, {text}: one round below gptq at {weights}"] = at[1] < at[0]
            checks[f"{model}, {text}: four rounds below one at {weights}"] = at[2] < at[1]
    return checks


decoupleq = register("claim", "decoupleq", GUO)(
    Claim(
        statement="Scales and offsets that are fitted to the codes by least squares, in turn with the codes, make 2-bit uniform "
        "quantization usable; each round lowers the layer's error.",
        setting="2 and 3 bits in groups of 64 with a float16 scale and offset a group (2.5 and 3.5 true bits), all linear layers but the "
        "output one; output errors of the layers of the first block. Texts and calibration as in the claim gptq.",
        rule="Over the layers, more rounds lose no more, and one refit after gptq takes off more than 10 % at 2 bits. For every model and "
        "text the extra loss falls from gptq to one round to four.",
        least=1.5,
        minutes=14.0,
        measure=measure,
        judge=judge,
    )
)
