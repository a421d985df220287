"""BitMoD: a special value in the place of minus zero, chosen by each group, lowers the error at 4 and 3 bits."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import normal, relative_mse, student
from lowbit.progress import ProgressCallback
from lowbit.quantizers.spec import quantizer

CHEN = Source(
    "BitMoD: Bit-serial Mixture-of-Datatype LLM Acceleration",
    "Chen et al.",
    2024,
    "arXiv:2411.11745",
    parts="section III (the data types); the figures are those that the record of the literature catalogue gives for them",
    departs="Accuracy on language tasks and the accelerator are not tried here.",
    records=("bitmod",),
)

#: (numbers, what, spec) -> relative squared error as the record states it
STATED = {
    ("normal", "e2m1 g128"): 0.0119,
    ("normal", "int4 g128 asym"): 0.0101,
    ("normal", "bitmod4"): 0.0096,
    ("student t(5)", "e2m1 g128"): 0.0154,
    ("student t(5)", "int4 g128 asym"): 0.0180,
    ("student t(5)", "bitmod4"): 0.0117,
    ("normal", "table(-4;-2;-1;0;1;2;4) g128"): 0.0571,
    ("normal", "int3 g128 asym"): 0.0466,
    ("normal", "bitmod3"): 0.0381,
}
ALLOWED = 0.05
WIDTHS = {4: ("e2m1 g128", "int4 g128 asym", "bitmod4"), 3: ("table(-4;-2;-1;0;1;2;4) g128", "int3 g128 asym", "bitmod3")}


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """4,000 groups of 128 numbers of each kind."""
    shape = (4000, 128)
    numbers = {"normal": normal(shape, "bitmod"), "student t(5)": student(shape, 5, "bitmod t")}
    rows = []
    for (kind, spec), stated in STATED.items():
        x = numbers[kind].float()
        found = relative_mse(x, quantizer(spec).quantize(x).dequantize())
        ratio = round(found / stated, 4)
        rows.append({"numbers": kind, "weights": spec, "stated": stated, "relative mse": round(found, 6), "ratio": ratio})
    return {"relative mse": rows}


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    found = {(r["numbers"], r["weights"]): r["relative mse"] for r in figures["relative mse"]}
    checks = {
        f"{kind}, {spec}: within 5 % of {stated}": abs(found[kind, spec] / stated - 1) <= ALLOWED for (kind, spec), stated in STATED.items()
    }
    for kind, bits in (("normal", 4), ("student t(5)", 4), ("normal", 3)):
        *others, own = WIDTHS[bits]
        checks[f"{kind}: the smallest error at {bits} bits"] = found[kind, own] < min(found[kind, other] for other in others)
    return checks


bitmod = register("claim", "bitmod", CHEN)(
    Claim(
        statement="The code of minus zero, given to one of four special values by each group of 128, makes the error of 4-bit and 3-bit "
        "weights smaller than that of symmetric floats and asymmetric integers.",
        setting="4,000 groups of 128 random numbers, normal and Student's t with 5 degrees of freedom; scales in float16.",
        rule="Each of the nine figures lies within 5 % of the stated one, and BitMoD has the smallest error of the three at each width.",
        least=0.2,
        minutes=0.2,
        measure=measure,
        judge=judge,
    )
)
