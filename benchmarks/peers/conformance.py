"""What other packages make of numbers: every function takes a float32 tensor and returns what it becomes in a format, as float32.

Nothing of this needs to be there: a package that is not installed has no functions. Block formats work along the last axis.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

Way = Callable[[Tensor], Tensor]
Ways = dict[str, dict[str, Way]]

PACKAGES = ("torch", "ml_dtypes", "gfloat", "torchao", "compressed-tensors", "qtorch", "qtorch-plus", "pychop")


def versions() -> dict[str, str]:
    """Package -> its version, or ``not installed``."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def module(name: str) -> ModuleType | None:
    """An installed module; None where its package is absent. What a package prints at its import is not shown."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


def through(kind: Any) -> Way:
    """By a numpy dtype and back."""

    def way(x: Tensor) -> Tensor:
        with np.errstate(all="ignore"):
            return torch.from_numpy(x.numpy().astype(kind).astype(np.float32))

    return way


def of_torch() -> Ways:
    names = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "bfloat16", "float16")
    return {name: {"torch": lambda x, name=name: x.to(getattr(torch, name)).float()} for name in names}


def of_ml_dtypes() -> Ways:
    ml_dtypes = module("ml_dtypes")
    names = (
        "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float8_e4m3", "float8_e3m4", "bfloat16",
        "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn",
    )  # fmt: skip
    return {} if ml_dtypes is None else {name: {"ml_dtypes": through(getattr(ml_dtypes, name))} for name in names}


def of_gfloat() -> Ways:
    gfloat, formats, block = module("gfloat"), module("gfloat.formats"), module("gfloat.block")
    if gfloat is None or formats is None or block is None:
        return {}
    known = {
        "float8_e4m3fn": "ocp_e4m3", "float8_e5m2": "ocp_e5m2", "bfloat16": "bfloat16", "float16": "binary16",
        "float6_e2m3fn": "ocp_e2m3", "float6_e3m2fn": "ocp_e3m2", "float4_e2m1fn": "ocp_e2m1", "q1.6": "ocp_int8",
    }  # fmt: skip

    def way(info: Any, saturate: bool) -> Way:
        def run(x: Tensor) -> Tensor:
            with np.errstate(all="ignore"):
                y = gfloat.round_ndarray(info, x.numpy().astype(np.float64), gfloat.RoundMode.TiesToEven, saturate)
            return torch.from_numpy(np.asarray(y, dtype=np.float32))

        return run

    def mx(info: Any) -> Way:
        def run(x: Tensor) -> Tensor:
            rows = x.numpy().reshape(-1, info.k)
            with np.errstate(all="ignore"):
                return (
                    torch.from_numpy(np.stack([block.quantize_block(info, r, block.compute_scale_amax) for r in rows]))
                    .float()
                    .view(x.shape)
                )

        return run

    found: Ways = {}
    for name, info in known.items():
        both = {"gfloat saturating": way(getattr(formats, f"format_info_{info}"), True)}
        if name in ("float8_e4m3fn", "float8_e5m2", "bfloat16", "float16"):
            both["gfloat"] = way(getattr(formats, f"format_info_{info}"), False)
        found[name] = both
    for name, info in (("mxfp4", "mxfp4_e2m1"), ("mxfp8", "mxfp8_e4m3"), ("mxfp6", "mxfp6_e2m3"), ("mxint8", "mxint8")):
        found[name] = {"gfloat": mx(getattr(formats, f"format_info_{info}"))}
    return found


def of_torchao() -> Ways:
    kernels, tensors = module("torchao.prototype.mx_formats.kernels"), module("torchao.prototype.mx_formats.mx_tensor")
    nv, primitives = module("torchao.prototype.mx_formats.nvfp4_tensor"), module("torchao.quantization.quant_primitives")
    if kernels is None or tensors is None or nv is None or primitives is None:
        return {}

    def mx(dtype: torch.dtype, mode: Any) -> Way:
        def run(x: Tensor) -> Tensor:
            scale, data = tensors.to_mx(x, dtype, 32, mode)
            return tensors.to_dtype(data, scale, dtype, 32, torch.float32)

        return run

    def nvfp4(two: bool) -> Way:
        def run(x: Tensor) -> Tensor:
            scale = nv.per_tensor_amax_to_scale(x.abs().max()) if two else None
            return nv.NVFP4Tensor.to_nvfp4(x, 16, per_tensor_scale=scale).dequantize(torch.float32)

        return run

    def integer(mapping: Any, low: int, high: int, eps: float = 1e-12) -> Way:
        def run(x: Tensor) -> Tensor:
            dtype = torch.int8 if low < 0 else torch.uint8
            scale, zero = primitives.choose_qparams_affine(x, mapping, (1, 128), dtype, low, high, eps=eps)
            return primitives._fake_quantize_affine(x, (1, 128), scale, zero, dtype, low, high)

        return run

    found: Ways = {}
    for name, kind in (("float4_e2m1fn", "f4"), ("float6_e2m3fn", "f6_e2m3"), ("float6_e3m2fn", "f6_e3m2")):
        encode, decode = getattr(kernels, f"f32_to_{kind}_unpacked", None), getattr(kernels, f"{kind}_unpacked_to_f32", None)
        if encode is not None and decode is not None:
            found[name] = {"torchao": lambda x, encode=encode, decode=decode: decode(encode(x))}
    modes = tensors.ScaleCalculationMode
    for name, dtype in (("mxfp4", torch.float4_e2m1fn_x2), ("mxfp8", torch.float8_e4m3fn)):
        found[name] = {f"torchao {mode.name}": mx(dtype, mode) for mode in modes}
    found["nvfp4"] = {"torchao two levels": nvfp4(True), "torchao one level": nvfp4(False)}
    found["int4"] = {"torchao": integer(primitives.MappingType.SYMMETRIC, -8, 7)}
    found["int4 asym"] = {"torchao": integer(primitives.MappingType.ASYMMETRIC, 0, 15)}
    return found


def of_compressed_tensors() -> Ways:
    quantization, schemes = module("compressed_tensors.quantization"), module("compressed_tensors.quantization.quant_scheme")
    forward, helpers = module("compressed_tensors.quantization.lifecycle.forward"), module("compressed_tensors.quantization.utils.helpers")
    fp4 = module("compressed_tensors.quantization.utils.fp4_utils")
    if quantization is None or schemes is None or forward is None or helpers is None or fp4 is None:
        return {}
    arguments = quantization.QuantizationArgs

    def group(args: Any, size: int, two_levels: bool = False) -> Way:
        def run(x: Tensor) -> Tensor:
            low, high = torch.aminmax(x.unflatten(-1, (-1, size)), dim=-1)
            outer = helpers.generate_gparam(x.min(), x.max()) if two_levels else None
            scale, zero = helpers.calculate_qparams(low, high, args, global_scale=outer)
            return forward.fake_quantize(x, scale, zero, args, global_scale=outer).float()

        return run

    one, zero = torch.ones(1), torch.zeros(1)
    e4m3 = arguments(num_bits=8, type="float", strategy="tensor", symmetric=True)
    int4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
    return {
        "float8_e4m3fn": {"compressed-tensors": lambda x: forward.fake_quantize(x, one, zero, e4m3)},
        "float4_e2m1fn": {"compressed-tensors": lambda x: fp4.cast_to_fp4(x.clone())},
        "mxfp4": {"compressed-tensors": group(schemes.MXFP4["weights"], 32)},
        "mxfp8": {"compressed-tensors": group(schemes.MXFP8["weights"], 32)},
        "nvfp4": {"compressed-tensors": group(schemes.NVFP4["weights"], 16, True)},
        "int4": {"compressed-tensors": group(arguments(**int4, symmetric=True), 128)},
        "int4 asym": {"compressed-tensors": group(arguments(**int4, symmetric=False), 128)},
    }


MINIFLOATS = {
    "float8_e4m3fn": (4, 3), "float8_e5m2": (5, 2), "bfloat16": (8, 7), "float6_e2m3fn": (2, 3), "float6_e3m2fn": (3, 2),
    "float4_e2m1fn": (2, 1),
}  # fmt: skip


def of_pychop() -> Ways:
    pychop, blocks = module("pychop"), module("pychop.mx_formats")
    if pychop is None or blocks is None:
        return {}
    with contextlib.redirect_stdout(io.StringIO()):
        pychop.backend("torch")
    found: Ways = {name: {"pychop": pychop.Chop(exp_bits=e, sig_bits=m, rmode=1, subnormal=True)} for name, (e, m) in MINIFLOATS.items()}
    for e, m in ((5, 10), (8, 7)):  # its switch for subnormal numbers
        found[f"e{e}m{m}_ftz"] = {"pychop": pychop.Chop(exp_bits=e, sig_bits=m, rmode=1, subnormal=False)}
    for name, kind in (("mxfp4", "mxfp4_e2m1"), ("mxfp8", "mxfp8_e4m3")):
        found[name] = {"pychop": lambda x, kind=kind: blocks.mx_quantize(x, format=kind, block_size=32)}
    return found


def of_qtorch() -> Ways:
    found: Ways = {}
    for label, name in (("qtorch", "qtorch.quant"), ("qtorch-plus", "qtorch_plus.quant")):
        quant = module(name)
        if quant is None:
            continue
        for spec, (e, m) in MINIFLOATS.items():
            found.setdefault(spec, {})[label] = lambda x, q=quant, e=e, m=m: q.float_quantize(x, exp=e, man=m, rounding="nearest")
        if label == "qtorch-plus":
            for es in (0, 1, 2):
                found[f"posit8_{es}"] = {label: lambda x, q=quant, es=es: q.posit_quantize(x, nsize=8, es=es)}
    return found


# ---- microxcaling's method, written from its definition


def shifted(x: Tensor, exponent_bits: int, mantissa: int, largest: float, even: bool) -> Tensor:
    """Magnitudes are shifted by a float32 exponent, floor(m + 1/2), and clamped; Inf and NaN pass."""
    least = 2 - 2 ** (exponent_bits - 1)
    private = torch.floor(torch.log2(x.abs() + (x == 0).float())).clamp(min=least)
    m = x.abs() / 2.0**private * 2.0**mantissa
    up = torch.floor(m + 0.5)
    if even:
        up = up - ((m - 0.5) % 2 == 0).float()
    y = (torch.sign(x) * up / 2.0**mantissa * 2.0**private).clamp(-largest, largest)
    return torch.where(torch.isfinite(x), y, x)


def shared(x: Tensor, exponent_bits: int, mantissa: int, largest: float, even: bool) -> Tensor:
    """Blocks of 32 under 2**(floor(log2(amax)) - emax), the logarithm in float32."""
    v = x.view(-1, 32)
    largest_in_block = v.abs().amax(1, keepdim=True)
    tiny = torch.finfo(torch.float32).tiny
    e = torch.floor(torch.log2(largest_in_block + tiny * (largest_in_block == 0))) - float(np.floor(np.log2(largest)))
    e = torch.where(e > 127, torch.nan, e.clamp(min=-127))
    return (shifted(v / 2.0**e, exponent_bits, mantissa, largest, even) * 2.0**e).view(x.shape)


def of_microxcaling() -> Ways:
    tops = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0, "float6_e2m3fn": 7.5, "float6_e3m2fn": 28.0, "float4_e2m1fn": 6.0}
    found: Ways = {}
    for label, even in (("microxcaling's method, even", True), ("microxcaling's method, nearest", False)):
        for name, top in tops.items():
            found.setdefault(name, {})[label] = lambda x, p=(*MINIFLOATS[name], top, even): shifted(x, *p)
        for name, element in (("mxfp4", "float4_e2m1fn"), ("mxfp8", "float8_e4m3fn"), ("mxfp6", "float6_e2m3fn")):
            found.setdefault(name, {})[label] = lambda x, p=(*MINIFLOATS[element], tops[element], even): shared(x, *p)
    return found


def all_ways() -> Ways:
    """Format or quantizer -> package -> function."""
    found: Ways = {}
    torch_integers = {
        "int4": {"torch fake_quantize, amax / 7": lambda x: torch_integer(x, -8, 7, asymmetric=False)},
        "int4 asym": {"torch fake_quantize": lambda x: torch_integer(x, 0, 15, asymmetric=True)},
    }
    families = (of_torch, of_ml_dtypes, of_gfloat, of_torchao, of_compressed_tensors, of_microxcaling, of_pychop, of_qtorch)
    for ways in (*(family() for family in families), torch_integers):
        for spec, named in ways.items():
            found.setdefault(spec, {}).update(named)
    return found


def torch_integer(x: Tensor, low: int, high: int, *, asymmetric: bool) -> Tensor:
    """torch's fake quantization, with the scale floor that its callers use."""
    v = x.reshape(-1, 128)
    if asymmetric:
        least, most = torch.aminmax(v, dim=1)
        least, most = least.clamp(max=0), most.clamp(min=0)
        scale = ((most - least) / (high - low)).clamp(min=1e-12)
        zero = (low - torch.round(least / scale)).clamp(low, high).to(torch.int32)
    else:
        scale = (v.abs().amax(1) / high).clamp(min=1e-12)
        zero = torch.zeros(scale.shape, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(v, scale, zero, 0, low, high).view(x.shape)
