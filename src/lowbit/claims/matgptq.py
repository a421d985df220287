"""MatGPTQ: slices of one 8-bit tensor beside slices of GPTQ's and beside GPTQ at each width, layer by layer."""

from __future__ import annotations

from typing import Any

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import layer_problems, output_loss, subjects
from lowbit.philox import Key
from lowbit.progress import ProgressCallback
from lowbit.quantizers.grid import QTensor
from lowbit.quantizers.matryoshka import slice_tensor
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.solver import solver

KLEINEGGER = Source(
    "MatGPTQ: Accurate and Efficient Post-Training Matryoshka Quantization",
    "Kleinegger et al.",
    2026,
    "arXiv:2602.03537",
    parts="one master of 8 bits made for 3, 4 and 8, against slices of plain GPTQ and against GPTQ at each width",
    departs="Output error of single layers of small models, not accuracy.",
    records=("matgptq",),
)
MASTER = "int8 g64"
WIDTHS = (3, 4, 6, 8)


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """The share of the output that is lost, in the mean over the layers of the first blocks."""
    rows: list[dict[str, Any]] = []
    figures: Figures = {"output error": rows}
    for subject in subjects(budget, 2.0, figures):
        problems = layer_problems(subject, "*layers.[0-2].*")
        for bits in WIDTHS:
            found = {"sliced gptq": 0.0, "sliced matgptq": 0.0, "gptq": 0.0}
            for name, W, H in problems:
                for spec in ("gptq", "matgptq"):
                    (q,) = solver(spec).solve(W, quantizer(MASTER), {"gram": H}, Key(0, name)).terms
                    assert isinstance(q, QTensor)
                    found[f"sliced {spec}"] += output_loss(W, slice_tensor(q, bits).dequantize(), H) / len(problems)
                own = solver("gptq").solve(W, quantizer(f"int{bits} g64"), {"gram": H}, Key(0, name))
                found["gptq"] += output_loss(W, own.dequantize(), H) / len(problems)
            rows.append({"model": subject.name, "bits": bits, **{k: round(v, 7) for k, v in found.items()}})
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    checks = {}
    for model in dict.fromkeys(r["model"] for r in figures["output error"]):
        at = {r["bits"]: r for r in figures["output error"] if r["model"] == model}
        nested = {bits: row["sliced matgptq"] for bits, row in at.items()}
        checks[f"{model}: at 3 bits less than 3/4 of what a slice of gptq loses"] = nested[3] < 0.75 * at[3]["sliced gptq"]
        checks[f"{model}: at 4 bits less than a slice of gptq"] = nested[4] < at[4]["sliced gptq"]
        checks[f"{model}: at 3 bits at most 1/4 more than gptq of 3 bits"] = nested[3] <= 1.25 * at[3]["gptq"]
        checks[f"{model}: at 4 bits at most 1/4 more than gptq of 4 bits"] = nested[4] <= 1.25 * at[4]["gptq"]
        checks[f"{model}: 6 bits, not trained for, lie between 4 and 8"] = nested[8] < nested[6] < nested[4]
        checks[f"{model}: at 8 bits less than 1 % of the output"] = nested[8] < 0.01
    return checks


matgptq = register("claim", "matgptq", KLEINEGGER)(
    Claim(
        statement="Codes chosen for several widths at once keep the accuracy of 8 bits and improve the slices of few bits clearly; widths "
        "that were not asked for lie in between.",
        setting="int8 in groups of 64 for 3, 4 and 8 bits, the linear layers of the first three blocks; inputs from the calibration text, "
        "layers before at 8 bits. Figures are ||(W - Q) X||^2 / ||W X||^2 in the mean over the layers.",
        rule="For every model: the 3-bit slice loses less than 3/4 of what that of gptq loses and at most 1/4 more than gptq of 3 bits, "
        "the 4-bit slice less than that of gptq and at most 1/4 more than gptq of 4 bits; the slice of 6 bits lies between 4 and 8; at 8 "
        "bits less than 1 % of the output is lost.",
        least=0.5,
        minutes=3.0,
        measure=measure,
        judge=judge,
    )
)
