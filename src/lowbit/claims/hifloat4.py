"""The relative squared error of HiF4, NVFP4 and MXFP4 on normal and heavy-tailed numbers."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import normal, relative_mse, student
from lowbit.progress import ProgressCallback
from lowbit.quantizers.spec import quantizer

HIF4 = Source(
    "HiFloat4 Format for Language Model Pre-training on Ascend NPUs",
    "Luo et al.",
    2026,
    "arXiv:2604.08826",
    parts="the format; the figures are those that the record of the literature catalogue gives for it",
    departs="The statement on training is not tried here.",
    records=("hifloat4",),
)

#: (numbers, format) -> relative squared error as the record states it
STATED = {
    ("normal", "hifloat4"): 0.00688,
    ("normal", "nvfp4"): 0.00904,
    ("normal", "mxfp4"): 0.0132,
    ("student t(4)", "hifloat4"): 0.00809,
    ("student t(4)", "nvfp4"): 0.00845,
    ("student t(4)", "mxfp4"): 0.0172,
}
ALLOWED = 0.03


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """655,360 numbers of each kind, rounded to bfloat16 first."""
    shape = (10240, 64)
    numbers = {"normal": normal(shape, "hifloat4"), "student t(4)": student(shape, 4, "hifloat4 t")}
    rows = []
    for (kind, name), stated in STATED.items():
        x = numbers[kind].bfloat16()
        found = relative_mse(x, quantizer(name).quantize(x).dequantize())
        ratio = round(found / stated, 4)
        rows.append({"numbers": kind, "format": name, "stated": stated, "relative mse": round(found, 6), "ratio": ratio})
    return {"relative mse": rows}


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    found = {(r["numbers"], r["format"]): r["relative mse"] for r in figures["relative mse"]}
    checks = {
        f"{kind}, {name}: within 3 % of {stated}": abs(found[kind, name] / stated - 1) <= ALLOWED for (kind, name), stated in STATED.items()
    }
    for kind in dict.fromkeys(k for k, _ in STATED):
        ordered = found[kind, "hifloat4"] < found[kind, "nvfp4"] < found[kind, "mxfp4"]
        checks[f"{kind}: hifloat4 below nvfp4 below mxfp4"] = ordered
    return checks


hifloat4 = register("claim", "hifloat4", HIF4)(
    Claim(
        statement="At 4.5 bits a number HiF4 has a smaller relative squared error than NVFP4 (x1.31) and MXFP4 (x1.92, 4.25 bits) on "
        "normal numbers; stated are 0.00688, 0.00904 and 0.0132, and 0.00809, 0.00845 and 0.0172 on Student's t with 4 degrees of freedom.",
        setting="655,360 random numbers in rows of 64, rounded to bfloat16; NVFP4 with its scale for the whole tensor, MXFP4 with the "
        "floor rule of OCP.",
        rule="Each of the six figures lies within 3 % of the stated one, and the formats are in the stated order on both kinds of numbers.",
        least=0.2,
        minutes=0.2,
        measure=measure,
        judge=judge,
    )
)
