"""Linear: y = x W^T + b with W held in few bits."""

from __future__ import annotations

from typing import NamedTuple, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowbit.errors import NonFiniteError
from lowbit.kernels.op import QLINEAR, QLINEAR_INT8
from lowbit.nn.packed import PackedWeight
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import quantizer as parse
from lowbit.quantizers.spec import text
from lowbit.solvers.rtn import RTN

#: how the integer kernel rounds the rows of its inputs
INT8_ROWS = "int8 scale=float32"


#: inputs that kernels take as they are
HALVES = (torch.bfloat16, torch.float16)


class Route(NamedTuple):
    """Which kernel serves a layer, ``torch`` for the product with the dense weight, and what faster ones refused."""

    kernel: str
    refused: str


class Linear(nn.Module):
    """A linear layer on packed weights. Arithmetic is float32, the result is rounded once to the dtype of x.

    A kernel reads the packed weight where one can: sums then run in another order than torch's on the dense weight.

    Args:
        weight: (out, in), packed.
        bias: (out,) or None.
        activations: a quantizer for the inputs, applied to each call's x; None leaves them as they are.
    """

    def __init__(self, weight: PackedWeight, bias: Tensor | None = None, activations: Quantizer | None = None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = weight
        self.activations = activations
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @classmethod
    def from_float(cls, linear: nn.Linear, weights: str | Quantizer = "nvfp4", activations: str | Quantizer | None = None) -> Linear:
        """Quantize one torch layer by rounding to nearest: ``Linear.from_float(layer, weights="int4 g64")``.

        Raises:
            ShapeError: the blocks do not divide the layer.
            SpecError: a spec string cannot be parsed.
            NonFiniteError: the weight holds NaN or Inf.
        """
        if not bool(torch.isfinite(linear.weight).all()):
            raise NonFiniteError("the layer's weight holds NaN or Inf; repair it before it is quantized")
        weight = RTN().solve(linear.weight.detach(), parse(weights), {}, Key())
        return cls(PackedWeight.of(weight), linear.bias, None if activations is None else parse(activations))

    def forward(self, x: Tensor) -> Tensor:
        """x (*, in) to (*, out)."""
        if torch.compiler.is_compiling() and self.activations is None and x.dtype in HALVES:
            return torch.ops.lowbit.linear(x, _name(self), self.out_features)  # type: ignore[no-any-return]
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        bias, layout = None if self.bias is None else self.bias.float(), self.weight.layout()
        if x.dtype in HALVES and self.activations is None and (kernel := QLINEAR.kernel(x, layout, bias)) is not None:
            return cast(Tensor, kernel.run(x, layout, bias))
        y = x.float()
        kernel = QLINEAR_INT8.kernel(y, layout, bias) if self.activations is not None and self.integer else None
        if kernel is None:
            y = y if self.activations is None else self.activations.quantize(y).dequantize()
            kernel = QLINEAR.kernel(y, layout, bias)
        y = functional.linear(y, self.weight.dense(), bias) if kernel is None else kernel.run(y, layout, bias)
        return y.to(x.dtype if x.is_floating_point() else torch.float32)

    @property
    def integer(self) -> bool:
        """Whether inputs are rounded as the integer kernel rounds them."""
        return self.activations == parse(INT8_ROWS)

    def route(self) -> Route:
        """What multiplies here without gradients."""
        layout, reasons = self.weight.layout(), []
        device = self.weight.device
        x = torch.zeros(1, self.in_features, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
        with torch.no_grad():
            if self.activations is not None:
                kernel, refusals = QLINEAR_INT8.plan(x, layout, self.bias) if self.integer else (None, {})
                if kernel is not None:
                    return Route("qlinear_int8", "")
                told = f"inputs in {text(self.activations)}, not {INT8_ROWS!r}"
                reasons += [told] if not self.integer else [f"qlinear_int8: {r}" for r in refusals.values()]
            kernel, refusals = QLINEAR.plan(x, layout, self.bias)
        reasons += [f"qlinear: {r}" for r in refusals.values()]
        return Route("torch" if kernel is None else "qlinear", "; ".join(reasons))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


# ---- under torch.compile: one operation, so that no graph breaks; the layer travels as its name

_layers: WeakValueDictionary[str, Linear] = WeakValueDictionary()


@torch.compiler.assume_constant_result
def _name(layer: Linear) -> str:
    name = f"linear {id(layer)}"
    _layers[name] = layer
    return name


def _operation(x: Tensor, layer: str, rows: int) -> Tensor:
    return _layers[layer]._product(x)


_library = torch.library.Library("lowbit", "FRAGMENT")
_library.define("linear(Tensor x, str layer, int rows) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
_library.impl("linear", _operation, "CompositeExplicitAutograd")


@torch.library.register_fake("lowbit::linear", lib=_library)
def _fake(x: Tensor, layer: str, rows: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], rows))
