"""Linear: y = x W^T + b with W held in few bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowbit.errors import NonFiniteError
from lowbit.nn.packed import PackedWeight
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import quantizer as parse
from lowbit.solvers.rtn import RTN


class Linear(nn.Module):
    """A linear layer on packed weights. Arithmetic is float32, the result is rounded once to the dtype of x.

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
        y = x.float()
        if self.activations is not None:
            y = self.activations.quantize(y).dequantize()
        y = functional.linear(y, self.weight.dense(), None if self.bias is None else self.bias.float())
        return y.to(x.dtype if x.is_floating_point() else torch.float32)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
