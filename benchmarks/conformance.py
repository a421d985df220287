"""Who departs where, and how often: ``python benchmarks/conformance.py``. The page goes to docs/conformance.md.

Every package that is installed is given the same float32 numbers as lowbit: for scalar formats all float16 numbers, every tie, the
float32 numbers beside ties and numbers, overflow and specials; for blocks Gaussian numbers and the 26 corner cases of the golden vectors.
Where packages differ from lowbit, the golden vectors (conformance/) and what they are held against say which of the two is right.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import warnings
from pathlib import Path

import torch
from peers.conformance import Way, all_ways, versions
from peers.conformance_leads import leads
from torch import Tensor

import lowbit
from lowbit.formats.format import Overflow
from lowbit.quantizers.spec import find_format
from lowbit.testing.golden import block_cases

PAGE = Path(__file__).parent.parent / "docs" / "conformance.md"
HALVES = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.float16).float()
SCALAR = (
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3", "float8_e3m4", "float8_e8m0fnu", "bfloat16",
    "float16", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn", "q1.6", "posit8_0", "posit8_1", "posit8_2",
    "e5m10_ftz", "e8m7_ftz",
)  # fmt: skip

#: block format -> what lowbit has that a package may mean by it
BLOCKS = {
    "mxfp4": ("mxfp4 floor", "mxfp4 even", "mxfp4 ceil", "mxfp4 rceil"),
    "mxfp8": ("mxfp8 floor", "mxfp8 even", "mxfp8 ceil", "mxfp8 rceil"),
    "mxfp6": ("mxfp6 floor", "mxfp6 even", "mxfp6 ceil", "mxfp6 rceil"),
    "mxint8": ("mxint8 floor", "mxint8 even", "mxint8 ceil", "mxint8 rceil"),
    "nvfp4": ("nvfp4", "float4_e2m1fn g16 scale=float8_e4m3fn"),
    "int4": ("int4 g128 scale=float32", "int4 g128 absmax:7.5 scale=float32", "int4_narrow g128 scale=float32"),
    "int4 asym": ("int4 g128 asym scale=float32", "int4 g128 absmax:7.5 scale=float32"),
}


def differ(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise: other numbers; NaN is NaN, and the sign of zero does not count."""
    return ~((a == b) | (a.isnan() & b.isnan()))


def inputs(name: str) -> dict[str, Tensor]:
    """The classes of numbers that a cast is asked about."""
    fmt = find_format(name)
    codes = torch.arange(len(fmt.values))
    numbers = fmt.decode(codes).double()
    numbers = numbers[torch.isfinite(numbers)].unique()
    middles = ((numbers[1:] + numbers[:-1]) / 2).float()
    ties = middles[middles.double() == (numbers[1:] + numbers[:-1]) / 2]
    around = torch.cat((middles, numbers.float()))
    infinity = torch.tensor(torch.inf)
    beside = torch.cat((torch.nextafter(around, infinity), torch.nextafter(around, -infinity)))
    ends = float(numbers[0]), float(numbers[-1])
    finite = HALVES[torch.isfinite(HALVES)]
    step = float(numbers[-1] - numbers[-2])
    far = torch.tensor([ends[1] + step * k for k in (0.25, 0.49999, 0.5, 0.50001, 0.75, 1.0, 2.0)], dtype=torch.float64).clamp(max=3.4e38)
    far = torch.cat((far.float(), torch.tensor([1e30, 3.4e38]), finite[finite > ends[1]]))
    far = torch.cat((far[far > ends[1]], -far[-far < ends[0]]))
    inside = (beside >= ends[0]) & (beside <= ends[1])
    return {
        "float16": finite[(finite >= ends[0]) & (finite <= ends[1])],
        "ties": ties,
        "beside": beside[inside],
        "beyond": far,
        "Inf": torch.tensor([torch.inf, -torch.inf]),
        "NaN": torch.tensor([torch.nan]),
    }


def safely(way: Way, x: Tensor) -> Tensor | str:
    """What a package returns, or how it fails."""
    try:
        return way(x.clone()).float()
    except Exception as error:  # a package's own failure is an entry of the table, whatever it is
        return f"{type(error).__name__}"


def examples(x: Tensor, ours: Tensor, theirs: Tensor, most: int = 2) -> str:
    where = differ(ours, theirs).nonzero().flatten()[:most].tolist()
    return "; ".join(f"{x[i].item():.9g}: {theirs[i].item():g}, not {ours[i].item():g}" for i in where)


def scalar_row(name: str, package: str, way: Way) -> list[str]:
    """One package on one format: how many of each class differ, under the overflow that suits it best."""
    fmt, classes = find_format(name), inputs(name)
    found: dict[Overflow, dict[str, tuple[int, int, str]]] = {}
    for overflow in ("saturate", "special"):
        counts = {}
        for kind, x in classes.items():
            ours, theirs = fmt.decode(fmt.encode(x, overflow=overflow)), safely(way, x)
            counts[kind] = (len(x), len(x), theirs) if isinstance(theirs, str) else (
                int(differ(ours, theirs).sum()), len(x), examples(x, ours, theirs)
            )  # fmt: skip
        found[overflow] = counts
    best = min(found, key=lambda o: sum(found[o][kind][0] for kind in ("beyond", "Inf")))
    x = classes["float16"]
    ours, theirs = fmt.decode(fmt.encode(x)), safely(way, x)
    signs = (
        int((~differ(ours, theirs) & (torch.signbit(ours) != torch.signbit(theirs)) & ~ours.isnan()).sum())
        if not isinstance(theirs, str)
        else 0
    )
    cells = [f"{n} of {total:,}" if n else "0" for n, total, _ in found[best].values()]
    shown = next((text for n, _, text in found[best].values() if n), "")
    if not any(found["special"][k][:2] != found["saturate"][k][:2] for k in classes):
        best = "either"  # type: ignore[assignment]
    return [name, package, *cells, str(signs), best, shown]


def fake(spec: str, x: Tensor) -> Tensor:
    return lowbit.fake_quantize(x, spec)


def mse(x: Tensor, y: Tensor) -> str:
    return f"{float((x.double() - y.double()).square().sum() / x.double().square().sum()):.5f}"


def block_rows(kind: str, ways: dict[str, Way], gaussian: Tensor) -> list[list[str]]:
    """One package a row: which of lowbit's rules it has, how often the others differ, and the corner cases where even that one differs."""
    rows = []
    cases = block_cases()
    for package, way in ways.items():
        x = gaussian if package != "pychop" and package != "gfloat" else gaussian[:64]
        theirs = safely(way, x)
        if isinstance(theirs, str):
            rows.append([kind, package, theirs, "", "", "", ""])
            continue
        shares = {spec: float(differ(fake(spec, x), theirs).double().mean()) for spec in BLOCKS[kind]}
        # the last bits of products are an order of multiplications, not another rule
        loose = {spec: float((~torch.isclose(fake(spec, x), theirs, rtol=2e-6, atol=0)).double().mean()) for spec in BLOCKS[kind]}
        best = min(shares, key=lambda s: (loose[s], shares[s]))
        broken = []
        for case, row in cases.items():
            y = safely(way, row.reshape(1, -1))
            ours = fake(best, row.reshape(1, -1))
            if isinstance(y, str):
                broken.append(f"{case}: {y}")
                continue
            n = int((differ(ours, y) & ~torch.isclose(ours, y, rtol=2e-6, atol=0)).sum())
            if n:
                i = int((differ(ours, y) & ~torch.isclose(ours, y, rtol=2e-6, atol=0)).flatten().nonzero()[0])
                broken.append(f"{case}: {n} ({row[i].item():.6g}: {y[0, i].item():.6g}, not {ours[0, i].item():.6g})")
        others = ", ".join(f"{spec.removeprefix(f'{kind} ')} {100 * share:.2f} %" for spec, share in loose.items() if spec != best)
        exact = f"{100 * loose[best]:.3f} %" + (f" ({100 * shares[best]:.1f} % in the last bit)" if shares[best] > loose[best] else "")
        rows.append([kind, package, f"`{best}`", exact, others, mse(x, theirs), "; ".join(broken) or "none"])
    return rows


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TORCH_LOGS", "-all")
    torch.set_grad_enabled(False)
    ways, installed = all_ways(), versions()
    gaussian = torch.randn(2048, 512, generator=torch.Generator().manual_seed(0))
    scalar = [scalar_row(name, package, way) for name in SCALAR for package, way in ways.get(name, {}).items()]
    blocks = [row for kind in BLOCKS if kind in ways for row in block_rows(kind, ways[kind], gaussian)]
    found = [[name, verdict, text] for name, verdict, text in leads(ways)]
    own = importlib.metadata.version("lowbit")
    agreeing = sum(row[2] == row[3] == row[4] == "0" for row in scalar)
    parts = [
        "<!-- written by `python benchmarks/conformance.py`, which needs the packages that it compares; `make docs` leaves it alone -->",
        "# Conformance of other packages",
        f"lowbit {own} against "
        + ", ".join(f"{name} {version}" for name, version in installed.items())
        + f"; {datetime.date.today().isoformat()}, Python {platform.python_version()}, {platform.machine()}, CPU only. "
        "microxcaling cannot be "
        "installed beside this torch, so its method is written from its definition "
        "(`benchmarks/peers/conformance.py`). Nothing here says that a "
        "package is wrong where it states another convention; it says where results differ from lowbit, whose answers are published in "
        "`conformance/` and held against rational arithmetic, ml_dtypes and torch.",
        "## Casts",
        "How many results differ, NaN being NaN. *float16*: all finite float16 numbers in the range of the format. "
        "*ties*: every number halfway "
        "between two neighbours that float32 holds. *beside*: the float32 numbers next to those and to the numbers of "
        "the format. *beyond*: "
        "finite numbers beyond the ends. *sign of 0*: zeros of the first class whose sign is lost; they count nowhere "
        "else. *overflow*: which of "
        "lowbit's two modes is meant, by the fewest differences. Of "
        f"{len(scalar)} pairs {agreeing} agree on every number within the range.",
        table(["format", "package", "float16", "ties", "beside", "beyond", "Inf", "NaN", "sign of 0", "overflow", "for instance"], scalar),
        "## Blocks",
        "On 2048 x 512 Gaussian numbers (64 rows for the two that loop in Python) and on the 26 corner cases of "
        "`conformance/quantizers/inputs.npz`, each a tensor of one row of 256. *means* is lowbit's spec that differs "
        "least; two results that differ by less than "
        "2e-6 of themselves count as equal. The error is relative and squared.",
        table(["format", "package", "means", "differ", "under the other rules", "error", "corner cases that differ"], blocks),
        "## Leads",
        "What was read or heard about these packages, tried on the versions above.",
        table(["lead", "verdict", "what happens"], found),
    ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
