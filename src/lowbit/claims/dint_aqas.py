"""dINT and AQAS: half steps in the integer grid, scales searched with both sides quantized, ranges calibrated at the length of the task."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import extra, losses, normal, pairs, relative_mse, subjects
from lowbit.progress import ProgressCallback
from lowbit.quantizers.spec import quantizer

LEE = Source(
    "Enhancing Computation Efficiency in Large Language Models through Weight and Activation Quantization",
    "Lee, Kim, Baek, Hwang, Sung, Choi",
    2023,
    "arXiv:2311.05161",
    parts="W4A8 with AQAS and dINT4 against SmoothQuant and INT4; calibration at another length (SLAC); the underflow of dINT",
    departs="Small models, weights rounded to nearest in groups of 64.",
    records=("dint-aqas",),
)
OURS, THEIRS = ("dint4 g64", "aqas + rtn"), ("int4 g64", "smoothquant + rtn")
#: share of normal numbers that becomes 0 in groups of 128, as the record states it
ZEROS = {"int4 g128": 0.160, "dint4 g128": 0.093}
SHORT, LONG = 64, 512


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Zeros and errors of normal numbers; losses of both methods; losses on short windows with ranges from short and long sequences."""
    x, rows = normal((4096, 128), "dint-aqas"), []
    for spec, stated in ZEROS.items():
        q = quantizer(f"{spec} scale=float32").quantize(x.float()).dequantize()
        found = {"zeros": round(float((q == 0).double().mean()), 4), "relative mse": round(relative_mse(x, q), 5)}
        rows.append({"format": spec, "stated zeros": stated, **found})
    figures: Figures = {"normal numbers": rows, "losses": [], "calibration length": []}
    for subject in subjects(budget, 5.0, figures):
        for weights, method in (OURS, THEIRS):
            chain = [tuple(method.split(" + ")[:-1])]
            figures["losses"] += losses(subject, (weights,), ("rtn",), progress, chain, "int8 row")
        for length in (SHORT, LONG):
            found_rows = losses(
                subject, ("int8",), ("rtn",), progress, [("smoothquant", "static")], "int8 tensor", window=SHORT, length=length
            )
            figures["calibration length"] += [{**r, "length": length} for r in found_rows]
    return figures


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    checks = {
        f"{r['format']}: the share of zeros is within 0.01 of {r['stated zeros']}": abs(r["zeros"] - r["stated zeros"]) <= 0.01
        for r in figures["normal numbers"]
    }
    error = {r["format"]: r["relative mse"] for r in figures["normal numbers"]}
    checks["dint4 has the smaller error on normal numbers"] = error["dint4 g128"] < error["int4 g128"]
    for model, text in pairs(figures["losses"]):
        ours, theirs = (extra(figures["losses"], model=model, text=text, weights=w, solver=s) for w, s in (OURS, THEIRS))
        checks[f"{model}, {text}: aqas with dint4 loses at most 0.8 of what smoothquant with int4 loses"] = ours <= 0.8 * theirs
        rows = figures["calibration length"]
        short, long = (extra([r for r in rows if r["length"] == n], model=model, text=text) for n in (SHORT, LONG))
        checks[f"{model}, {text}: ranges from longer sequences than those measured lose more"] = long > short
    return checks


dint_aqas = register("claim", "dint-aqas", LEE)(
    Claim(
        statement="W4A8 with scales chosen for both operands and an integer grid with half steps comes close to full precision; numbers "
        "that underflow become half as many; static ranges fit the length of the sequences that they were calibrated on.",
        setting="Normal numbers in groups of 128 with a float32 scale. Models with weights in groups of 64, rounded to nearest, and int8 "
        "inputs with a scale for each token: aqas and dint4 against smoothquant (0.5) and int4. Then int8 weights and static int8 inputs "
        f"after smoothquant, measured on windows of {SHORT} tokens, calibrated with as many sequences of {SHORT} and of {LONG} tokens. "
        "Texts and calibration otherwise as in the claim gptq.",
        rule="The shares of zeros lie within 0.01 of those stated, and dint4's error is below int4's. For every model and text: the extra "
        "loss with aqas and dint4 is at most 0.8 of that with smoothquant and int4; with the longer calibration it is larger than with "
        "the one of the length that is measured.",
        least=1.5,
        minutes=7.0,
        measure=measure,
        judge=judge,
    )
)
