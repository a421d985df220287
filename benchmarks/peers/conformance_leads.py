"""What is said about other packages, each statement tried: (lead, verdict, what was seen)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

import lowbit
from lowbit.formats.minifloat import bfloat16, float4_e2m1fn, float8_e4m3fn, float8_e5m2
from lowbit.formats.posit import decode
from lowbit.formats.table import TableFormat
from peers.conformance import Ways, module, versions

Found = tuple[str, str, str]
NEAR = {"rtol": 2e-6, "atol": 0.0}
E4M3, E5M2, E2M1, BF16 = "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "bfloat16"


def verdict(holds: bool) -> str:
    return "confirmed" if holds else "refuted"


def numbers(*values: float) -> Tensor:
    return torch.tensor(values)


def shown(y: Tensor) -> str:
    return ", ".join(f"{v:.6g}" for v in y.flatten().tolist())


def pred(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, -torch.inf))


def succ(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, torch.inf))


def middles(fmt: TableFormat) -> Tensor:
    line = torch.tensor(fmt.lines[0].values, dtype=torch.float64)
    return ((line[1:] + line[:-1]) / 2).float()


# ---- scales


def logarithms(ways: Ways) -> Iterator[Found]:
    """floor(log2) in float32 beside powers of two; then the packages' own blocks there."""
    below = pred(torch.exp2(torch.arange(-125, 128).float()))
    right = torch.frexp(below).exponent - 1
    for name, found in (("numpy", torch.from_numpy(np.floor(np.log2(below.numpy())))), ("torch", torch.floor(torch.log2(below)))):
        wrong = found != right
        text = f"floor(log2(x)) is one too large for {int(wrong.sum())} of {len(below)} numbers just below a power of two"
        where = f", {below[wrong][-1]:.9g} among them" if wrong.any() else ""
        yield f"float32 log2 in a scale rule: {name}", verdict(bool(wrong.any())), text + where
    exponents = torch.arange(-100, 101)
    rows = torch.zeros(len(exponents), 128)
    rows[:, 0] = pred(torch.exp2(exponents.float()))
    rows[:, 1:32] = rows[:, :1] / 20
    for kind in ("mxfp4", "mxfp8"):
        right_rows = lowbit.fake_quantize(rows, f"{kind} floor")
        for name in ("microxcaling's method, even", "gfloat", "pychop", "torchao FLOOR"):
            if name in ways.get(kind, {}):
                y = ways[kind][name](rows.clone())
                wrong = (y != right_rows).any(1)
                text = (
                    f"{int(wrong.sum())} of {len(rows)} blocks whose maximum is just below a power of two differ from the exact floor rule"
                )
                yield f"the same within {kind}: {name}", verdict(bool(wrong.any())), text
    tensors = module("torchao.prototype.mx_formats.mx_tensor")
    if tensors is None:
        return
    for kind, dtype, top in (("mxfp4", torch.float4_e2m1fn_x2, 6.0), ("mxfp8", torch.float8_e4m3fn, 448.0)):
        above = torch.zeros(len(exponents), 32)
        above[:, 0] = succ(succ(top * torch.exp2(exponents.float() - 10)))
        scale = tensors.to_mx(above, dtype, 32, tensors.ScaleCalculationMode.RCEIL)[0].float().flatten()
        wrong = scale != torch.exp2(exponents.float() - 9)
        text = f"ceil(log2(amax / {top:g})) of blocks two floats above {top:g} * 2**k: {int(wrong.sum())} of {len(above)} get half of the "
        yield f"the same within {kind}: torchao RCEIL without CUDA", verdict(bool(wrong.any())), text + "scale that holds them"


def mx_rules(ways: Ways) -> Iterator[Found]:
    x = torch.randn(2048, 512, generator=torch.Generator().manual_seed(1))
    rules = {rule: lowbit.fake_quantize(x, f"mxfp4 {rule}") for rule in ("floor", "even", "rceil", "ceil")}
    apart = {rule: float((y != rules["floor"]).double().mean()) for rule, y in rules.items()}
    errors = {rule: float((y - x).double().square().mean()) for rule, y in rules.items()}
    text = ", ".join(f"{rule} {100 * apart[rule]:.1f} % (squared error {errors[rule]:.4f})" for rule in rules)
    yield "two MXFP4 differ by their scale rule alone", "confirmed", f"elements that differ from floor on Gaussian numbers: {text}"
    for kind, rule in (("mxfp4", "even"), ("mxfp8", "rceil")):
        if "compressed-tensors" in ways.get(kind, {}):
            same = bool((ways[kind]["compressed-tensors"](x.clone()) == lowbit.fake_quantize(x, f"{kind} {rule}")).all())
            rest = [
                r
                for r in ("floor", "rceil", "ceil")
                if bool((ways[kind]["compressed-tensors"](x.clone()) == lowbit.fake_quantize(x, f"{kind} {r}")).all())
            ]
            yield (
                f"compressed-tensors' {kind} rounds scales by {rule}",
                verdict(same),
                f"equal to {rule}: {same}; to others: {rest or 'none'}",
            )


def mx_corners(ways: Ways) -> Iterator[Found]:
    gaussian = torch.randn(1, 128, generator=torch.Generator().manual_seed(2))
    tiny = gaussian * 2.0**-126
    for name, rule in (("torchao FLOOR", "floor"), ("torchao EVEN", "even"), ("torchao RCEIL", "rceil")):
        if name in ways.get("mxfp4", {}):
            y, right = ways["mxfp4"][name](tiny.clone()), lowbit.fake_quantize(tiny, f"mxfp4 {rule}")
            wrong = (y != right) & (right != 0)
            ratio = (y / right)[wrong].unique()
            text = f"{int(wrong.sum())} of 128 differ; found / right: {shown(ratio[:4])}" if wrong.any() else "all 128 are right"
            yield f"blocks near 2**-126: {name}", verdict(bool(wrong.any())), text
    for what, value in (("one NaN", torch.nan), ("one Inf", torch.inf)):
        x = gaussian.clone()
        x[0, 0] = value
        for name in ("compressed-tensors", "torchao FLOOR", "gfloat", "pychop", "microxcaling's method, even"):
            if name in ways.get("mxfp4", {}):
                lead = f"an MXFP4 block with {what} is not NaN as a whole (which lowbit makes it): {name}"
                try:
                    y = ways["mxfp4"][name](x.clone())[0, :32]
                except Exception as error:  # what a package does with it is the finding
                    yield lead, "it refuses", f"{type(error).__name__}: {error}"
                    continue
                text = (
                    f"{int(y.isnan().sum())} NaN, {int(y.isinf().sum())} Inf, {int((y == 0).sum())} zeros, first {y[0].item():.3g}, "
                    f"second {y[1].item():.3g}"
                )
                yield lead, verdict(not bool(y.isnan().all())), text


def nvfp4(ways: Ways) -> Iterator[Found]:
    own = ways.get("nvfp4", {})
    x = torch.randn(256, 512, generator=torch.Generator().manual_seed(3))
    zeros = torch.zeros(1, 128)
    for name, way in own.items():
        y = way(zeros.clone())
        yield f"NVFP4 of zeros: {name}", verdict(bool(y.isnan().any())), f"{int(y.isnan().sum())} of 128 become NaN"
    if "torchao one level" in own:
        large, small = own["torchao one level"](numbers(*[3000.0] * 128)[None]), own["torchao one level"](numbers(*[2.0**-12] * 128)[None])
        text = f"3000 becomes {large[0, 0].item():g}; 2**-12 becomes {small[0, 0].item():g}"
        yield (
            "NVFP4 of one level saturates at 2688 and loses small blocks",
            verdict(large[0, 0].item() == 2688 and small[0, 0].item() == 0),
            text,
        )
    for name in own:  # one unit of the scale 2**-8, which is subnormal in e4m3, beside the largest number of its block
        given = torch.full((1, 128), 2.0**-8)
        given[0, ::16] = 6.0 * 2.0**-8
        given[0, 64:] = 0.0 if "one level" in name else 448.0 * 6.0
        y = own[name](given)[0, 1].item()
        text = f"2**-8 in a block of scale 2**-8 becomes {y / 2.0**-8:g} * 2**-8"
        yield f"NVFP4 loses scales among the subnormal e4m3 numbers: {name}", verdict(y != 2.0**-8), text
    if {"torchao two levels", "compressed-tensors"} <= own.keys():
        a, b = own["torchao two levels"](x.clone()), own["compressed-tensors"](x.clone())
        text = (
            f"{100 * float((a != b).double().mean()):.1f} % of the elements differ, "
            f"{int((~torch.isclose(a, b, **NEAR)).sum())} by more than the last bits"
        )
        yield (
            "NVFP4: torchao and compressed-tensors differ in last bits",
            verdict(bool((a != b).any()) and torch.allclose(a, b, **NEAR)),
            text,
        )


# ---- casts


def overflow(ways: Ways) -> Iterator[Found]:
    x = numbers(464.0, 464.01, 1e30, torch.inf, torch.nan)
    own = ways[E4M3]
    y = own["torch"](x)
    yield (
        "torch saturates e4m3fn, Inf included",
        verdict(bool((y[:4] == 448).all() and y[4].isnan())),
        f"464, 464.01, 1e30, Inf, NaN: {shown(y)}",
    )
    y = torch.stack([ways[f]["torch"](numbers(1e30))[0] for f in (E4M3, E5M2, "float8_e4m3fnuz")])
    yield (
        "three overflow conventions within torch",
        verdict(len({str(v) for v in y.tolist()}) == 3),
        f"1e30 in e4m3fn, e5m2, e4m3fnuz: {shown(y)}",
    )
    for name in ("microxcaling's method, even", "pychop"):
        if name in own:
            y = own[name](numbers(torch.inf))
            yield f"Inf passes through e4m3fn, which has none: {name}", verdict(bool(y.isinf())), f"Inf becomes {shown(y)}"
    for name in ("qtorch", "qtorch-plus"):
        for kind in (E4M3, E5M2, E2M1, BF16):
            if name in ways[kind]:
                y = ways[kind][name](numbers(torch.nan, torch.inf))
                yield f"NaN becomes a finite number: {name}, {kind}", verdict(bool(y[0].isfinite())), f"NaN, Inf: {shown(y)}"
    seen = []
    for name, way in ways[E2M1].items():
        try:
            seen.append(f"{name} {shown(way(numbers(torch.nan)))}")
        except Exception as error:  # a refusal is an answer too
            seen.append(f"{name} {type(error).__name__}")
    yield "NaN into e2m1, which has none: everyone does as they please", verdict(len({s.split()[-1] for s in seen}) > 1), "; ".join(seen)


def rounding(ways: Ways) -> Iterator[Found]:
    for kind, half in ((E2M1, 0.25), (E4M3, 2.0**-10)):
        for name in ("microxcaling's method, even", "microxcaling's method, nearest"):
            x = pred(numbers(half))
            y = ways[kind][name](x)
            text = f"{x.item():.9g}, just below half of the smallest number, becomes {y.item():g}"
            yield f"rounded twice by floor(x + 1/2): {name}, {kind}", verdict(y.item() != 0), text
    formats = {E4M3: float8_e4m3fn, E5M2: float8_e5m2, BF16: bfloat16, E2M1: float4_e2m1fn}
    for kind, fmt in formats.items():
        x = middles(fmt)
        even = fmt.decode(fmt.encode(x))
        away = fmt.decode(fmt.encode(x, lowbit.find("rounding", "nearest_away")))
        for name in ("qtorch", "qtorch-plus", "microxcaling's method, nearest"):
            if name in ways[kind]:
                y = ways[kind][name](x.clone())
                wrong = y != even
                text = (
                    f"{int(wrong.sum())} of {len(x):,} ties are not taken to even, {int((wrong & (y == away)).sum())} of them are "
                    f"taken away from zero"
                )
                yield f"ties away from zero: {name}, {kind}", verdict(bool(wrong.any())), text


def ranges(ways: Ways) -> Iterator[Found]:
    for name in ("qtorch", "qtorch-plus"):
        if name in ways[E4M3]:
            y = torch.stack([ways[kind][name](numbers(1e30))[0] for kind in (E4M3, E5M2)])
            yield f"no codes are reserved: {name}", verdict(y.tolist() == [480, 114688]), f"the largest e4m3 and e5m2: {shown(y)}"
    if "pychop" in ways[E4M3]:
        for kind, low, high in ((E4M3, 240.0, 600.0), (E2M1, 3.0, 8.0), (E5M2, 57344.0, 140000.0)):
            x = torch.linspace(low, high, 4001)
            y = ways[kind]["pychop"](x.clone())
            gone = x[y == 0]
            text = f"{gone.min().item():g} to {gone.max().item():g} become 0" if len(gone) else "none becomes 0"
            yield f"numbers beyond the largest become zero: pychop, {kind}", verdict(len(gone) > 0), text
    if "qtorch-plus" in ways[E4M3]:
        x = torch.linspace(0, 2.0**-6, 4097)[1:-1]
        right, y = float8_e4m3fn.decode(float8_e4m3fn.encode(x)), ways[E4M3]["qtorch-plus"](x.clone())
        wrong = y != right
        text = (
            f"{int(wrong.sum())} of {len(x)} numbers below 2**-6 differ; 0.0055 becomes "
            f"{ways[E4M3]['qtorch-plus'](numbers(0.0055)).item():g}"
        )
        yield "the subnormal numbers of e4m3: qtorch-plus", verdict(float(wrong.double().mean()) > 0.01), text
    kept = {name: bool(torch.signbit(way(numbers(-0.0)))) for name, way in ways[E4M3].items()}
    text = f"kept: {', '.join(n for n, k in kept.items() if k)}; lost: {', '.join(n for n, k in kept.items() if not k)}"
    yield "-0 becomes +0 in e4m3fn", verdict(not all(kept.values())), text


def scale_formats(ways: Ways) -> Iterator[Found]:
    x = 1.5 * torch.exp2(torch.arange(-126, 127).float())
    y = torch.from_numpy(x.numpy().astype(ml_dtypes.float8_e8m0fnu).astype(np.float32))
    ups = {"ml_dtypes": int((y > x).sum()), "torch": int((ways["float8_e8m0fnu"]["torch"](x) > x).sum())}
    text = f"1.5 * 2**k is rounded up for {ups['ml_dtypes']} of {len(x)} by ml_dtypes, for {ups['torch']} by torch"
    yield "ml_dtypes and torch round ties to e8m0 apart", verdict(ups["ml_dtypes"] != ups["torch"] or ups["torch"] not in (0, len(x))), text


# ---- integers


def integers(ways: Ways) -> Iterator[Found]:
    x = torch.randn(2048, 512, generator=torch.Generator().manual_seed(4))
    own = ways.get("int4", {})
    errors = {
        top: float((lowbit.fake_quantize(x, f"int4 g128 absmax:{top} scale=float32") - x).double().square().mean()) for top in ("7", "7.5")
    }
    yield (
        "int4: amax / 7.5 or amax / 7",
        "confirmed",
        f"squared error {errors['7.5']:.5f} and {errors['7']:.5f} on Gaussian numbers, groups of 128",
    )
    if {"torchao", "compressed-tensors"} <= own.keys():
        a, b = own["torchao"](x.clone()), own["compressed-tensors"](x.clone())
        apart = ~torch.isclose(a, b, **NEAR)
        least = x.view(-1, 128) == x.view(-1, 128).amin(1, keepdim=True)
        ends = int((apart.view(-1, 128) & least).sum())
        text = (
            f"{int(apart.sum())} of {x.numel():,} elements differ; {ends} of them are the most negative number of their "
            f"group, at -7.5 units"
        )
        yield "int4: torchao and compressed-tensors break the tie of the most negative number apart", verdict(bool(apart.any())), text
    own = ways.get("int4 asym", {})
    if {"torchao", "compressed-tensors"} <= own.keys():
        ties = torch.tensor([*[k + 0.5 for k in range(15)], 0.0, 15.0] * 8)[:128] - 7.0
        ties[0], ties[1] = -7.0, 8.0
        a, b = own["torchao"](ties[None].clone()), own["compressed-tensors"](ties[None].clone())
        n = int((~torch.isclose(a, b, **NEAR)).sum())
        yield (
            "int4 asym: ties fall apart with the parity of the zero point",
            verdict(n > 0),
            f"torchao (0 to 15) and compressed-tensors (-8 to 7): {n} of 128 ties",
        )
    tiny = x[:1, :128] * 1e-20
    for name, way in ways.get("int4", {}).items():
        y = way(tiny.clone())
        yield (
            f"a scale floor removes a tiny group: {name}",
            verdict(bool((y == 0).all())),
            f"{int((y == 0).sum())} of 128 numbers near 1e-20 become 0",
        )


def posits(ways: Ways) -> Iterator[Found]:
    way = ways.get("posit8_1", {}).get("qtorch-plus")
    if way is None:
        return
    line = torch.tensor([float(decode(c, 8, 1) or 0) for c in range(128)])
    cuts = torch.tensor([float(decode(2 * c + 1, 9, 1) or 0) for c in range(128)])
    x = torch.cat((line, cuts, pred(cuts[1:]), succ(cuts[1:]), torch.logspace(-5, 5, 4096)))
    x = torch.cat((x, -x))
    fmt = lowbit.find("format", "posit8_1")
    y, right = way(x.clone()), fmt.decode(fmt.encode(x))
    special = way(numbers(torch.nan, torch.inf))
    wrong = y != right
    text = f"{int(wrong.sum())} of {len(x)} numbers differ from rounding of the bit string; NaN and Inf become {shown(special)}"
    yield (
        "posit8_1 of qtorch-plus rounds the bit string, NaR comes out as an infinity",
        verdict(not wrong.any() and bool(special.isinf().any())),
        text,
    )


def draws() -> dict[str, Callable[[Tensor], Tensor]]:
    """Stochastic roundings to e4m3."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, quant in (("qtorch", module("qtorch.quant")), ("qtorch-plus", module("qtorch_plus.quant"))):
        if quant is not None:
            found[name] = lambda x, q=quant: q.float_quantize(x, exp=4, man=3, rounding="stochastic")
    pychop, gfloat, formats = module("pychop"), module("gfloat"), module("gfloat.formats")
    if pychop is not None:
        found["pychop"] = pychop.Chop(exp_bits=4, sig_bits=3, rmode=5, subnormal=True)
    if gfloat is not None and formats is not None:
        bits, mode = np.random.default_rng(0), gfloat.RoundMode.StochasticFast

        def way(x: Tensor) -> Tensor:
            words = bits.integers(0, 1 << 16, tuple(x.shape), dtype=np.int64)
            y = gfloat.round_ndarray(formats.format_info_ocp_e4m3, x.double().numpy(), mode, True, srbits=words, srnumbits=16)
            return torch.from_numpy(y)

        found["gfloat, 16 bits"] = way
    return found


def stochastic(ways: Ways) -> Iterator[Found]:
    for name, way in draws().items():
        for value in (1.03125, 0.003):
            torch.manual_seed(0)
            y = way(torch.full((1 << 20,), value)).double()
            off, error = float(y.mean() - value), float(y.std()) / 2**10
            seen = f"outcomes {shown(y.unique()[:4].float())}; the mean of 2**20 is off by {off:.2g}"
            text = seen + (f", {abs(off) / error:.1f} standard errors" if error else "")
            yield f"stochastic rounding of {value:g} to e4m3 is biased: {name}", verdict(abs(off) > 4 * error), text
        y = way(torch.full((1 << 20,), 460.0)).unique().float()
        lead = f"stochastic rounding of 460 gives what e4m3fn does not have: {name}"
        yield lead, verdict(not set(y.tolist()) <= {448.0, 240.0}), f"outcomes {shown(y[:4])}"


# ---- what does not run here


def elsewhere(ways: Ways) -> Iterator[Found]:
    fp4 = module("compressed_tensors.quantization.utils.fp4_utils")
    if fp4 is not None:
        x = 0.25 + 2.0**-12
        source = inspect.getsource(fp4)
        on_cpu = ways[E2M1]["compressed-tensors"](numbers(x)).item()
        casts = "bfloat16" in source
        kernel = "it casts to bfloat16 first, where that number is 0.25 and becomes 0"
        if not casts:
            kernel = "it compares what it loads, without a cast; the cast was read in an earlier version"
        version = versions()["compressed-tensors"]
        text = f"on the CPU 0.25 + 2**-12 becomes {on_cpu:g}. The GPU kernel was not run; as read in {version} {kernel}"
        yield "compressed-tensors casts float32 to bfloat16 before FP4 on a GPU, not on the CPU", "not run: needs a GPU", text
    yield "ModelOpt's CUDA scale rule may return the floor instead of the ceiling", "not run: needs CUDA", "a remark in its source"


GROUPS: tuple[Callable[[Ways], Iterator[Found]], ...] = (
    logarithms, mx_rules, mx_corners, nvfp4, overflow, rounding, ranges, scale_formats, integers, posits, stochastic, elsewhere,
)  # fmt: skip


def leads(ways: Ways) -> Iterator[Found]:
    """Every lead, those about absent packages left out."""
    for group in GROUPS:
        yield from group(ways)
