"""Round a tensor to what a quantizer can store: ``lowbit.fake_quantize(x, "nvfp4")``."""

from __future__ import annotations

from torch import Tensor

from lowbit import philox
from lowbit.errors import ShapeError
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import quantizer as parse


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
    quantizer = parse(spec)
    if out is not None and out.shape != x.shape:
        raise ShapeError(f"out is {tuple(out.shape)}, x is {tuple(x.shape)}")
    noise = None
    if getattr(getattr(quantizer, "rounding", None), "noisy", False):
        noise = philox.noise(key if isinstance(key, Key) else Key(key), tuple(x.shape), device=x.device)
    result = quantizer.quantize(x, noise=noise).dequantize()
    return result.to(x.dtype) if out is None else out.copy_(result)
