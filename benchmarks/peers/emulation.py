"""Other ways to round float32 to a format and back: torch, torch.compile, and packages where they are installed.

Every function takes a float32 tensor and returns one; their values are not compared here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from peers.conformance import of_compressed_tensors

Way = Callable[[Tensor], Tensor]


def power(e: Tensor) -> Tensor:
    return ((e + 127) << 23).view(torch.float32)


def exponent(v: Tensor) -> Tensor:
    return ((v.view(torch.int32) >> 23) & 255) - 127


def e4m3(x: Tensor) -> Tensor:
    m = x.abs().clamp(max=448.0)
    s = power(exponent(m).clamp(min=-6) - 3)
    return torch.copysign(torch.round(m / s) * s, x)


def stochastic_e4m3(x: Tensor) -> Tensor:
    m = x.abs().clamp(max=448.0)
    s = power(exponent(m).clamp(min=-6) - 3)
    return torch.copysign((torch.floor(m / s + torch.rand_like(x)) * s).clamp(max=448.0), x)


def e2m1(v: Tensor) -> Tensor:
    m = v.abs().clamp(max=6.0)
    s = power(exponent(m).clamp(min=0) - 1)
    return torch.copysign(torch.round(m / s) * s, v)


def mx(element: Way, top: int) -> Way:
    def run(x: Tensor) -> Tensor:
        v = x.view(-1, 32)
        e = (exponent(v.abs().amax(1, keepdim=True)) - top).clamp(-126, 125)
        return (element(v * power(-e)) * power(e)).view(x.shape)

    return run


def nvfp4(x: Tensor) -> Tensor:
    g = x.abs().max() / (448.0 * 6.0)
    v = x.view(-1, 16)
    s = (v.abs().amax(1, keepdim=True) / 6.0 / g).clamp(2.0**-9, 448.0).to(torch.float8_e4m3fn).to(torch.float32) * g
    return (e2m1(v / s) * s).view(x.shape)


def integers(x: Tensor, group: int, top: int) -> Tensor:
    v = x.view(-1, group)
    s = (v.abs().amax(1, keepdim=True) / top).clamp(min=1e-12)
    return (torch.round(v / s).clamp(-top - 1, top) * s).view(x.shape)


def plain() -> dict[str, Way]:
    """Ten lines of torch for each quantizer; the benchmark puts them under torch.compile."""
    return {
        "float8_e4m3fn": e4m3,
        "float8_e4m3fn round=stochastic": stochastic_e4m3,
        "float4_e2m1fn": e2m1,
        "mxfp8": mx(e4m3, 8),
        "mxfp4": mx(e2m1, 2),
        "nvfp4": nvfp4,
        "int4 g128": lambda x: integers(x, 128, 7),
        "int8": lambda x: integers(x, x.shape[-1], 127),
    }


def casts() -> dict[str, dict[str, Way]]:
    """torch's own casts, and ml_dtypes."""
    kinds = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "bfloat16": torch.bfloat16}
    found: dict[str, dict[str, Way]] = {spec: {"torch cast": lambda x, d=d: x.to(d).to(torch.float32)} for spec, d in kinds.items()}
    try:
        ml_dtypes = importlib.import_module("ml_dtypes")
    except ModuleNotFoundError:
        return found
    for spec in (*kinds, "float4_e2m1fn"):
        dtype = getattr(ml_dtypes, spec)
        found.setdefault(spec, {})["ml_dtypes"] = lambda x, d=dtype: torch.from_numpy(x.numpy().astype(d).astype(np.float32))
    return found


def gfloat() -> dict[str, dict[str, Way]]:
    try:
        gfloat, formats = importlib.import_module("gfloat"), importlib.import_module("gfloat.formats")
    except ModuleNotFoundError:
        return {}
    known = {
        "float8_e4m3fn": formats.format_info_ocp_e4m3, "float8_e5m2": formats.format_info_ocp_e5m2,
        "bfloat16": formats.format_info_bfloat16, "float4_e2m1fn": formats.format_info_ocp_e2m1,
    }  # fmt: skip

    def way(info: object) -> Way:
        def run(x: Tensor) -> Tensor:
            return torch.from_numpy(np.asarray(gfloat.round_ndarray(info, x.numpy(), gfloat.RoundMode.TiesToEven, True), dtype=np.float32))

        return run

    return {spec: {"gfloat": way(info)} for spec, info in known.items()}


def torchao() -> dict[str, dict[str, Way]]:
    try:
        tensors = importlib.import_module("torchao.prototype.mx_formats.mx_tensor")
        nv = importlib.import_module("torchao.prototype.mx_formats.nvfp4_tensor")
        primitives = importlib.import_module("torchao.quantization.quant_primitives")
    except ModuleNotFoundError:
        return {}
    floor = tensors.ScaleCalculationMode.FLOOR

    def mx_way(dtype: torch.dtype) -> Way:
        def run(x: Tensor) -> Tensor:
            s, d = tensors.to_mx(x, dtype, 32, floor)
            return tensors.to_dtype(d, s, dtype, 32, torch.float32)

        return run

    def nvfp4_way(x: Tensor) -> Tensor:
        scale = nv.per_tensor_amax_to_scale(x.abs().max())
        return nv.NVFP4Tensor.to_nvfp4(x, 16, per_tensor_scale=scale).dequantize(torch.float32)

    def integer(low: int, high: int, group: int) -> Way:
        def run(x: Tensor) -> Tensor:
            block = (1, group or x.shape[-1])
            s, z = primitives.choose_qparams_affine(x, primitives.MappingType.SYMMETRIC, block, torch.int8, low, high, eps=1e-12)
            return primitives._fake_quantize_affine(x, block, s, z, torch.int8, low, high)

        return run

    return {
        "mxfp8": {"torchao": mx_way(torch.float8_e4m3fn)},
        "mxfp4": {"torchao": mx_way(torch.float4_e2m1fn_x2)},
        "nvfp4": {"torchao": nvfp4_way},
        "int4 g128": {"torchao": integer(-8, 7, 128)},
        "int8": {"torchao": integer(-128, 127, 0)},
    }


def compressed_tensors() -> dict[str, dict[str, Way]]:
    """The float and group schemes whose values benchmarks/conformance.py compares."""
    return {
        {"int4": "int4 g128", "int4 asym": "int4 g128 asym"}.get(spec, spec): dict(ways) for spec, ways in of_compressed_tensors().items()
    }


def microxcaling(x: Tensor, exponent_bits: int, mantissa: int, largest: float, block: int | None) -> Tensor:
    """The method of microxcaling, written from its definition: exponents by floor(log2), magnitudes shifted and rounded half away."""
    scale = torch.zeros(())
    v = x if block is None else x.view(-1, block)
    if block is not None:
        top = 2 ** (exponent_bits - 1) + (exponent_bits == 4)  # e2m1: 2, e4m3: 8
        scale = torch.floor(torch.log2(v.abs().amax(1, keepdim=True) + 1e-45)) - (2 if exponent_bits == 2 else top - 1)
        v = v / 2.0**scale
    private = torch.floor(torch.log2(v.abs() + (v == 0).float())).clamp(min=2 - 2 ** (exponent_bits - 1))
    v = v / 2.0**private * 2.0**mantissa
    v = torch.sign(v) * torch.floor(v.abs() + 0.5)
    v = (v / 2.0**mantissa * 2.0**private).clamp(-largest, largest)
    return (v if block is None else v * 2.0**scale).view(x.shape)


def others() -> dict[str, dict[str, Way]]:
    """microxcaling's method; qtorch-plus and pychop where installed."""
    found: dict[str, dict[str, Way]] = {
        "float8_e4m3fn": {"microxcaling's method": lambda x: microxcaling(x, 4, 3, 448.0, None)},
        "mxfp8": {"microxcaling's method": lambda x: microxcaling(x, 4, 3, 448.0, 32)},
        "mxfp4": {"microxcaling's method": lambda x: microxcaling(x, 2, 1, 6.0, 32)},
    }
    try:
        pychop = importlib.import_module("pychop")
        pychop.backend("torch")
        found["float8_e4m3fn"]["pychop"] = pychop.Chop(exp_bits=4, sig_bits=3, rmode=1, subnormal=True)
        found.setdefault("bfloat16", {})["pychop"] = pychop.Chop(exp_bits=8, sig_bits=7, rmode=1, subnormal=True)
    except ModuleNotFoundError:
        pass
    try:
        qtorch = importlib.import_module("qtorch_plus.quant")
        found["float8_e4m3fn"]["qtorch-plus"] = lambda x: qtorch.float_quantize(x, 4, 3, rounding="nearest")
        found.setdefault("posit8_1", {})["qtorch-plus"] = lambda x: qtorch.posit_quantize(x, 8, 1)
    except ModuleNotFoundError:
        pass
    return found


def by_spec() -> dict[str, dict[str, Way]]:
    """Spec string -> name of a peer -> its function."""
    found: dict[str, dict[str, Way]] = {}
    for family in (casts(), gfloat(), torchao(), compressed_tensors(), others()):
        for spec, ways in family.items():
            found.setdefault(spec, {}).update(ways)
    for spec, way in plain().items():
        found.setdefault(spec, {})["torch.compile"] = torch.compile(way, dynamic=False)
    return found
