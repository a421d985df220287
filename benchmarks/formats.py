"""Do formats have the errors that the literature catalogue records: ``python benchmarks/formats.py``. To benchmarks/results/formats.md.

Each figure is taken again on 16 samples of 2**19 numbers, so that the spread of a sample of about the record's size is seen too; figures
at an optimal range are found on quantiles, without chance. A figure agrees when ours is within 1 % of a number that rounds to it.
"""

from __future__ import annotations

import argparse
import datetime
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy import special
from torch import Tensor

import lowbit
from lowbit import philox
from lowbit.evaluation.format_error import Sums, best_scale
from lowbit.philox import Key
from lowbit.quantizers.rex import residuals
from lowbit.quantizers.spec import find_format, quantizer

RESULT = Path(__file__).parent / "results" / "formats.md"
BATCHES, BATCH = 16, 1 << 19
INVERSE: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # type: ignore[type-arg]
    "Gaussian": special.ndtri,
    "uniform": lambda p: 2 * p - 1,
    "Student-t(3)": lambda p: special.stdtrit(3, p),
    "Student-t(4)": lambda p: special.stdtrit(4, p),
    "Student-t(5)": lambda p: special.stdtrit(5, p),
}


@lru_cache(maxsize=2)
def numbers(distribution: str, columns: int) -> Tensor:
    """(batches, rows, columns) float32."""
    words = philox.noise(Key(0, distribution, "figures"), (BATCHES * BATCH,)).double().numpy()
    return torch.from_numpy(INVERSE[distribution]((words + 0.5) / 2.0**32)).float().reshape(BATCHES, -1, columns)


@lru_cache(maxsize=8)
def quantiles(distribution: str, count: int) -> Sums:
    return Sums.of(INVERSE[distribution]((np.arange(count) + 0.5) / count))


@dataclass(frozen=True)
class Figure:
    """What a record states, as it is written there, and how it is measured: each batch gives one number."""

    record: str
    what: str
    distribution: str
    stated: str
    measure: Callable[[], list[float]]
    decibel: bool = False


def relative_mse(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y.double()).square().sum() / x.double().square().sum())


def errors(rounds: Callable[[Tensor], Tensor], distribution: str, columns: int = 1024, first: torch.dtype = torch.float32) -> list[float]:
    """The relative squared error of each batch; numbers are first rounded to a dtype."""
    batches = (batch.to(first).float() for batch in numbers(distribution, columns))
    return [relative_mse(batch, rounds(batch)) for batch in batches]


def of(record: str, stated: dict[str, str], distribution: str, columns: int = 1024, first: torch.dtype = torch.float32) -> Iterator[Figure]:
    """Figures of spec strings."""
    for spec, figure in stated.items():

        def measure(spec: str = spec) -> list[float]:
            q = quantizer(spec)
            return errors(lambda x: lowbit.fake_quantize(x, q), distribution, columns, first)

        yield Figure(record, f"`{spec}`", distribution, figure, measure)


def terms(spec: str, count: int) -> Callable[[Tensor], Tensor]:
    return lambda x: residuals(x, [quantizer(spec)] * count).dequantize()


def one_clip(spec: str) -> Callable[[], list[float]]:
    """Absmax with one share of the range for all groups, the best of many."""
    top = find_format(spec).top

    def measure() -> list[float]:
        first = numbers("Gaussian", 1024)[0]
        tried = {c: f"{spec} g128 absmax:{top * c:.4f} scale=float32" for c in np.arange(1.0, 1.6, 0.02)}
        best = min(tried.values(), key=lambda s: relative_mse(first, lowbit.fake_quantize(first, s)))
        return errors(lambda x: lowbit.fake_quantize(x, best), "Gaussian")

    return measure


def each_clip(spec: str) -> Callable[[], list[float]]:
    """The best of 51 shares of the range, group by group."""
    return lambda: errors(lambda x: lowbit.fake_quantize(x, f"{spec} g128 mse:0.5:51 scale=float32"), "Gaussian")


def zeros(spec: str) -> Callable[[], list[float]]:
    return lambda: [float((lowbit.fake_quantize(x, spec) == 0).double().mean()) for x in numbers("Gaussian", 1024)]


def optimal(name: str, distribution: str, count: int) -> Callable[[], list[float]]:
    """In decibels, at the scale with the least squared error."""
    return lambda: [-10 * math.log10(best_scale(find_format(name), quantiles(distribution, count))[1])]


FP3 = "e2m0f g128 scale=float32"
FP4 = "float4_e2m1fn g128 scale=float32"


def figures() -> Iterator[Figure]:
    yield from of("bitmod", {FP4: "0.0119", "int4 g128 asym": "0.0101", "bitmod4": "0.0096"}, "Gaussian")
    yield from of("bitmod", {FP3: "0.0571", "int3 g128 asym": "0.0466", "bitmod3": "0.0381"}, "Gaussian")
    yield from of("bitmod", {FP4: "0.0154", "int4 g128 asym": "0.0180", "bitmod4": "0.0117"}, "Student-t(5)")
    yield from of("afpq", {"afpq4": "0.0112", "afpq3": "0.0513"}, "Gaussian")
    yield from of("afpq", {"afpq4": "0.0127", "afpq3": "0.0738", FP3: "0.0964"}, "Student-t(5)")
    yield from of("hifloat4", {"hifloat4": "0.00688", "nvfp4": "0.00904", "mxfp4": "0.0132"}, "Gaussian", first=torch.bfloat16)
    yield from of("hifloat4", {"hifloat4": "0.00809", "nvfp4": "0.00845", "mxfp4": "0.0172"}, "Student-t(4)", first=torch.bfloat16)
    yield from of("nvfp4-pretrain", {"nvfp4": "0.009", "mxfp4": "0.013"}, "Gaussian")
    yield from of("nupes", {"power4_1 g1024 scale=float32": "0.0203", "power4_0.7 g1024 scale=float32": "0.0158"}, "Gaussian")
    yield from of("dint-aqas", {"int4_narrow g128 scale=float32": "0.0138", "dint4 g128 scale=float32": "0.0134"}, "Gaussian")
    for spec in ("int4_narrow", "dint4"):
        yield Figure("dint-aqas", f"{spec} g128, one best clip for all groups", "Gaussian", "0.0112", one_clip(spec))
        yield Figure("dint-aqas", f"{spec} g128, the best clip of each group", "Gaussian", "0.0112", each_clip(spec))
    for spec, stated in (("int4_narrow g128", "0.160"), ("dint4 g128 absmax:7", "0.080"), ("dint4 g128", "0.093")):
        yield Figure("dint-aqas", f"share of zeros, `{spec}`", "Gaussian", stated, zeros(f"{spec} scale=float32"))
    for (bits, count), stated in REX.items():
        spec = f"int{bits}_narrow row scale=float32"
        yield Figure(
            "rex", f"{count} x `{spec}`, rows of 512", "Gaussian", stated, lambda s=spec, n=count: errors(terms(s, n), "Gaussian", 512)
        )  # fmt: skip
    yield from of("rex", {f"int{bits}_narrow row scale=float32": stated for bits, stated in REX_PLAIN.items()}, "Gaussian", 512)
    yield from of("bitnet-a48", {"int4 row absmean:0.3779645 scale=float32": "0.013", "int4 row scale=float32": "0.018"}, "Gaussian", 512)
    for count, stated in ((1, "0.363"), (2, "0.13")):
        yield Figure("binarydm", f"{count} x `binary`", "Gaussian", stated, lambda n=count: errors(terms("binary", n), "Gaussian"))
    for distribution, stated_db in (
        ("uniform", {"int8": "48.1", "e2m5f": "44.4"}),
        ("Gaussian", EXPONENT),
        ("Student-t(3)", {"int8": "24.0", "e2m5f": "29.5", "e3m4f": "37.7", "e4m3f": "31.7"}),
    ):
        for name, stated in stated_db.items():
            measure = optimal(name, distribution, 60_000)
            yield Figure("fp8-exponent", f"dB at the best range, {name}", distribution, stated, measure, decibel=True)
    for distribution, stated_db in (
        ("Gaussian", {"float6_e3m2fn": "25.6", "float6_e2m3fn": "30.9", "int6_narrow": "29.7"}),
        ("Student-t(3)", {"float6_e3m2fn": "25.6", "float6_e2m3fn": "19.0", "int6_narrow": "15.7"}),
    ):
        for name, stated in stated_db.items():
            measure = optimal(name, distribution, 60_000)
            yield Figure("fp6-4plus2", f"dB at the best range, {name}", distribution, stated, measure, decibel=True)


#: record -> why some of its figures are not within 1 %
REASONS = {"rex": "(a small sample, see below)", "dint-aqas": "(two readings, see below)", "fp8-exponent": "(one random sample, see below)"}

REX = {
    (2, 1): "0.715",
    (2, 2): "0.224",
    (2, 3): "0.057",
    (2, 4): "0.014",
    (3, 1): "0.101",
    (3, 2): "0.0028",
    (4, 1): "0.0183",
    (4, 2): "0.000094",
}
REX_PLAIN = {5: "0.0040", 8: "0.000056"}
EXPONENT = {"int8": "40.9", "e2m5f": "42.9", "e3m4f": "37.6", "e4m3f": "31.6"}


def half_unit(stated: str) -> float:
    """Half of the last digit that is written."""
    return float(Decimal(5).scaleb(Decimal(stated).as_tuple().exponent - 1))


def rex_samples() -> str:
    """Whether one sample of few rows can have all of the record's figures at once."""
    lines, stated = [], np.array([float(v) for v in (*REX.values(), *REX_PLAIN.values())])
    rounding = np.array([half_unit(v) for v in (*REX.values(), *REX_PLAIN.values())])
    for rows in (64, 256, 1024):
        found = []
        for x in numbers("Gaussian", 512).reshape(-1, rows, 512)[: 16_384 // rows]:
            one = [relative_mse(x, terms(f"int{bits}_narrow row scale=float32", count)(x)) for bits, count in REX]
            found.append(one + [relative_mse(x, lowbit.fake_quantize(x, f"int{bits}_narrow row scale=float32")) for bits in REX_PLAIN])
        each = np.array(found)
        all_of_them = (np.abs(each - stated) <= rounding + 0.01 * stated).all(1)
        highest = (each >= stated - rounding).all(1)
        share = 100 * each.std(0, ddof=1) / each.mean(0)
        together = np.corrcoef(each[:, 0], each[:, -1])[0, 1]
        lines.append(
            f"{len(each)} samples of {rows:,} rows of 512: standard deviation {share.min():.1f} to {share.max():.1f} % of a figure, "
            f"correlation of the first with the last {together:.2f}; all ten figures are the record's within 1 % in {all_of_them.sum()}, "
            f"all are at least as large in {highest.sum()}"
        )
    return "\n".join(f"- {line}" for line in lines)


def exponent_samples(count: int = 40) -> str:
    """How far the best ranges of random samples spread, and how many have the four figures of the record."""
    random = numbers("Gaussian", 512).reshape(-1)[: count * 60_000].reshape(count, -1).double().numpy()
    each = np.array([[-10 * math.log10(best_scale(find_format(name), Sums.of(x))[1]) for name in EXPONENT] for x in random])
    stated = np.array([float(v) for v in EXPONENT.values()])
    hits = (np.abs(each - stated) <= 0.05 + 1e-9).all(1).sum()
    spread = ", ".join(f"{n} {low:.2f} to {high:.2f}" for n, low, high in zip(EXPONENT, each.min(0), each.max(0), strict=True))
    return f"- {count} samples of 60,000 random numbers, dB: {spread}; all four figures are the record's, as rounded, in {hits}"


def missing(rows: list[list[str]]) -> str:
    """What is behind the figures that are not within 1 %."""
    clips = {r[1]: r[4] for r in rows if "clip" in r[1]}
    return (
        "## The figures that are not within 1 %\n\n"
        "**rex.** All ten of the record's figures are above ours, by 1 to 4 %, and it gives two figures for one case (0.0183 and 0.0185). "
        "All are proportional to the squared maxima of the rows, so in one sample they are high or low together:\n\n"
        f"{rex_samples()}\n\n"
        "The definition gives the record's figures on some samples of 64 or 256 rows, on none of 1,024: its sample was small. "
        "Its order of the methods and the error bound hold (tests/solvers/test_rex.py).\n\n"
        "**fp8-exponent.** The record takes Student-t on quantiles because random samples are of no use there, and does not say so of its "
        "Gaussian figures. The best range of a format of many bits depends on the largest few numbers:\n\n"
        f"{exponent_samples()}\n\n"
        "Ours are those of the quantiles, without chance; the record's are within what samples of its size spread.\n\n"
        '**dint-aqas.** "Both 0.0112 with MSE-optimal clipping" cannot be said of one way of clipping: '
        + "; ".join(f"{name} {value}" for name, value in clips.items())
        + ". Taken alike dINT loses 6 to 8 % less than INT4 both ways, many standard deviations of the sample. With one scale for the "
        f"whole distribution they lose {whole_clip('int4_narrow')} and {whole_clip('dint4')}. The record's two figures are those of two "
        "ways; neither definition is in doubt, as the figures without clipping and the shares of zeros agree."
    )


def whole_clip(name: str) -> str:
    return f"{best_scale(find_format(name), quantiles('Gaussian', 60_000))[1]:.4f}"


def row(figure: Figure) -> list[str]:
    found = figure.measure()
    mean = float(np.mean(found))
    spread = float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
    stated, half = float(figure.stated), half_unit(figure.stated)
    if figure.decibel:
        low, high = stated - half + 10 * math.log10(0.99), stated + half + 10 * math.log10(1.01)
        ratio = 10 ** ((stated - mean) / 10)
    else:
        low, high, ratio = (stated - half) * 0.99, (stated + half) * 1.01, mean / stated
    verdict = "yes" if low <= mean <= high else f"no {REASONS.get(figure.record, '')}".strip()
    shown = f"{mean:.2f}" if figure.decibel else f"{mean:.4g}"
    sure = f"{100 * 1.96 * spread / math.sqrt(len(found)) / mean:.2f} %" if len(found) > 1 else ""
    return [
        figure.record,
        figure.what,
        figure.distribution,
        figure.stated,
        shown,
        f"{ratio:.3f}",
        f"{100 * spread / mean:.2f} %",
        sure,
        verdict,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    rows = []
    for figure in sorted(figures(), key=lambda f: f.distribution):
        rows.append(row(figure))
        print(*rows[-1], sep=" | ", flush=True)
    head = ["record", "what", "numbers", "record's figure", "ours", "ratio of errors", "spread", "95 % +-", "within 1 %"]
    table = "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *sorted(rows, key=lambda r: r[0])))
    agree = sum(r[-1] == "yes" for r in rows)
    text = (
        f"# Figures of formats in the literature catalogue\n\nlowbit on {BATCHES} samples of {BATCH:,} numbers, "
        f"{datetime.date.today().isoformat()}, Python {platform.python_version()}, torch {torch.__version__}. "
        "Written by `python benchmarks/formats.py`. Relative squared error unless the line says otherwise. The spread is the standard "
        "deviation of one sample of that size, the interval that of the mean of all; figures in dB are found on 60,000 quantiles. A figure "
        "is within 1 % when ours is within "
        f"1 % of a number that rounds to it: {agree} of {len(rows)} are.\n\n{table}\n\n"
        f"{missing(rows)}\n"
    )
    arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
