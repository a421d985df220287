"""COMQ: what sweeps of coordinate descent lose, beside rounding to nearest and GPTQ, layer by layer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import layer_problems, output_loss, subjects
from lowbit.philox import Key
from lowbit.progress import Progress, ProgressCallback
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.solver import solver

ZHANG = Source(
    "COMQ: A Backpropagation-Free Algorithm for Post-Training Quantization",
    "Zhang, Yang, Wang, Yin",
    2024,
    "arXiv:2403.07134",
    parts="the greedy order, the sweeps and the update of the scale, against other solvers",
    departs="Output error of single layers of language models, not accuracy of image models. The greedy order is one for all rows.",
    records=("comq",),
)
WIDTHS = ("int4 row", "int3 row", "int2 row")
SWEEPS = (1, 2, 3, 5)
GREEDY = {k: f"comq:sweeps={k}" for k in SWEEPS}
CYCLIC, REFITTED, AFTER = "comq:sweeps=3:order=none", "comq:sweeps=3:refit=true", "comq:sweeps=3:start=gptq"


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """The share of the output that each solver loses, in the mean over the layers of the first blocks."""
    rows: list[dict[str, Any]] = []
    figures: Figures = {"output error": rows}
    for subject in subjects(budget, 4.0, figures):
        problems = layer_problems(subject, "*layers.[0-2].*")
        for i, weights in enumerate(WIDTHS):
            if progress is not None:
                progress(Progress("solve", i, len(WIDTHS), weights))
            for spec in ("rtn", "gptq", *GREEDY.values(), CYCLIC, REFITTED, AFTER):
                q, value = quantizer(weights), solver(spec)
                found = [output_loss(W, value.solve(W, q, {"gram": H}, Key(0, n)).dequantize(), H) for n, W, H in problems]
                rows.append({"model": subject.name, "weights": weights, "solver": spec, "share": round(sum(found) / len(found), 7)})
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    found = {(r["model"], r["weights"], r["solver"]): r["share"] for r in figures["output error"]}
    checks = {}
    for model, weights in dict.fromkeys((m, w) for m, w, _ in found):
        at = {s: found[model, weights, s] for m, w, s in found if (m, w) == (model, weights)}
        here = f"{model}, {weights}"
        checks[f"{here}: no sweep after the first loses"] = all(at[GREEDY[b]] <= at[GREEDY[a]] * 1.0001 for a, b in pairwise(SWEEPS))
        checks[f"{here}: greedy below cyclic below rtn"] = at[GREEDY[3]] < at[CYCLIC] < at["rtn"]
        checks[f"{here}: within 10 % of gptq after 1 sweep"] = at[GREEDY[1]] <= 1.1 * at["gptq"]
        checks[f"{here}: below gptq after 3"] = at[GREEDY[3]] < at["gptq"]
        checks[f"{here}: after gptq it gains"] = at[AFTER] < at["gptq"]
        if weights == "int2 row":
            checks[f"{here}: refitted scales take off more than 15 %"] = at[REFITTED] < 0.85 * at[GREEDY[3]]
    return checks


comq = register("claim", "comq", ZHANG)(
    Claim(
        statement="Coordinate descent without gradients quantizes a layer as well as the best solvers; a greedy order is better than a "
        "cyclic one, more sweeps and refitted scales are better still.",
        setting="The linear layers of the first three blocks with one scale a row at 4, 3 and 2 bits; inputs from the calibration text, "
        "layers before at 8 bits. Figures are ||(W - Q) X||^2 / ||W X||^2 in the mean over the layers.",
        rule="For every model and width: no sweep after the first loses; greedy is below cyclic and that below rtn; one sweep is within "
        "10 % of gptq, three are below it; three sweeps after gptq gain; at 2 bits refitted scales take off more than 15 %.",
        least=1.0,
        minutes=5.0,
        measure=measure,
        judge=judge,
    )
)
