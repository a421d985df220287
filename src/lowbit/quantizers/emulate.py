"""Round a tensor to what a quantizer can store: ``lowbit.fake_quantize(x, "nvfp4")``."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit import philox
from lowbit.errors import ShapeError, SpecError
from lowbit.kernels.op import FAKE_QUANTIZE
from lowbit.philox import Key
from lowbit.quantizers.best import Best
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import quantizer as parse
from lowbit.quantizers.spec import text


def fake_quantize(x: Tensor, spec: str | Quantizer, out: Tensor | None = None, *, key: Key | int = 0) -> Tensor:
    """The numbers that x becomes when it is quantized and read back.

    Arithmetic is float32 whatever the dtype; the result is rounded once to the dtype of x (or of ``out``).

    Shapes:
        x       any shape that the blocks divide, any float dtype
        out     the shape of x

    Args:
        spec: a spec string (``"nvfp4"``, ``"int4 g64 asym"``, ``"float8_e4m3fn"``) or a quantizer.
        key: seed (or full key) of the noise, for stochastic roundings: the same key gives the same result.

    Raises:
        SpecError: the spec cannot be parsed.
        ShapeError: blocks that do not divide x, or an ``out`` of another shape.
    """
    whole = key if isinstance(key, Key) else Key(key)
    if not torch.compiler.is_compiling():
        return _fake_quantize(x, parse(spec), out, whole)
    name = spec if isinstance(spec, str) else _name(spec)
    if out is None:
        return torch.ops.lowbit.fake_quantize(x, name, *whole)  # type: ignore[no-any-return]
    torch.ops.lowbit.fake_quantize_out(x, name, *whole, out)
    return out


def _fake_quantize(x: Tensor, quantizer: Quantizer, out: Tensor | None, key: Key) -> Tensor:
    if out is not None and out.shape != x.shape:
        raise ShapeError(f"out is {tuple(out.shape)}, x is {tuple(x.shape)}")
    if isinstance(quantizer, Best):
        quantizer = quantizer.options[quantizer.choice(x)]
    noisy = getattr(getattr(quantizer, "rounding", None), "noisy", False)
    told = (x, getattr(quantizer, "lowered", f"{type(quantizer).__name__} has a grid of its own"), out, key.words() if noisy else None)
    kernel = FAKE_QUANTIZE.kernel(*told)
    if kernel is not None:
        return kernel.run(*told)  # type: ignore[no-any-return]
    noise = philox.noise(key, tuple(x.shape), device=x.device) if noisy else None
    result = quantizer.quantize(x, noise=noise).dequantize()
    return result.to(x.dtype) if out is None else out.copy_(result)


# ---- under torch.compile: one operation, so that no graph breaks; the quantizer travels as its name

#: quantizers without a spec string, by the names that stand for them in this process
_unnamed: dict[str, Quantizer] = {}


@torch.compiler.assume_constant_result
def _name(quantizer: Quantizer) -> str:
    try:
        return text(quantizer)
    except SpecError:
        name = f"unnamed quantizer {id(quantizer)}"
        _unnamed[name] = quantizer
        return name


def _named(name: str) -> Quantizer:
    return _unnamed[name] if name in _unnamed else parse(name)


def _operation(x: Tensor, spec: str, seed: int, tensor: str, role: str, step: int, rank: int) -> Tensor:
    result = _fake_quantize(x, _named(spec), None, Key(seed, tensor, role, step, rank))
    return result.contiguous()


def _operation_out(x: Tensor, spec: str, seed: int, tensor: str, role: str, step: int, rank: int, out: Tensor) -> None:
    _fake_quantize(x, _named(spec), out, Key(seed, tensor, role, step, rank))


ARGUMENTS = "Tensor x, str spec, SymInt seed, str tensor, str role, SymInt step, SymInt rank"
_library = torch.library.Library("lowbit", "DEF")
_library.define(f"fake_quantize({ARGUMENTS}) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
_library.define(f"fake_quantize_out({ARGUMENTS}, Tensor(a!) out) -> ()", tags=torch.Tag.pt2_compliant_tag)
_library.impl("fake_quantize", _operation, "CompositeExplicitAutograd")
_library.impl("fake_quantize_out", _operation_out, "CompositeExplicitAutograd")


@torch.library.register_fake("lowbit::fake_quantize", lib=_library)
def _fake(x: Tensor, *_: object) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@torch.library.register_fake("lowbit::fake_quantize_out", lib=_library)
def _fake_out(x: Tensor, *_: object) -> None:
    return None
