"""Experts of a mixture: matrices stacked in one parameter become layers of their own, which only the tokens routed to them pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: functions whose second argument multiplies the first from the right
PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)


class Stack(nn.Module):
    """Layers in the place of a parameter (experts, rows, columns): ``functional.linear(x, stack[e])`` runs the e-th layer.

    Args:
        weights: (experts, out, in), or (experts, in, out) where it is transposed; the layers share its memory.
        transposed: whether x is multiplied as ``x @ stack[e]``.
    """

    def __init__(self, weights: Tensor, transposed: bool):
        super().__init__()
        self.transposed = transposed
        for e, W in enumerate(weights.detach().mT if transposed else weights.detach()):
            layer = nn.Linear(W.shape[1], W.shape[0], bias=False, device="meta")
            layer.weight = nn.Parameter(W, requires_grad=weights.requires_grad)
            self.add_module(str(e), layer)

    def __getitem__(self, expert: int | Tensor) -> Factor:
        return Factor(self.get_submodule(str(int(expert))), self.transposed)

    def __len__(self) -> int:
        return len(self._modules)


class Factor:
    """One layer of a stack in the place of its matrix; functions other than its product get the matrix itself."""

    def __init__(self, layer: nn.Module, transposed: bool):
        self.layer = layer
        self.transposed = transposed

    def dense(self) -> Tensor:
        """The matrix as it lies in the stack."""
        held: Any = self.layer.weight
        W: Tensor = held if isinstance(held, Tensor) else held.dense()
        return W.mT if self.transposed else W

    def float(self) -> Factor | Tensor:
        """Itself where it multiplies in float32 anyway."""
        held = self.layer.weight
        return self.dense().float() if isinstance(held, Tensor) and held.dtype != torch.float32 else self

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if len(args) == 2 and isinstance(args[0], Tensor) and isinstance(args[1], Factor) and not kwargs:
            x, factor = args
            if func in PRODUCTS if factor.transposed else func is functional.linear:
                return factor.layer(x)
        plain = [a.dense() if isinstance(a, Factor) else a for a in args]
        named = {k: a.dense() if isinstance(a, Factor) else a for k, a in (kwargs or {}).items()}
        return func(*plain, **named)


def stacks(module: nn.Module) -> list[str]:
    """The parameters of a module that hold one matrix an expert."""
    count = getattr(module, "num_experts", None)
    return [name for name, p in module._parameters.items() if p is not None and p.ndim == 3 and len(p) == count]


def refusal(module: nn.Module) -> str | None:
    """Why the stacked matrices of a module cannot be taken apart; None where they can, or where there are none.

    Modules of transformers' interface for experts can: what they run by themselves takes one matrix after the other by its index.
    """
    if not stacks(module) or hasattr(module, "is_transposed"):
        return None
    return f"{type(module).__name__} multiplies with all its experts at once"


def unstack(model: nn.Module) -> nn.Module:
    """Take the stacked experts of a model apart, in place: ``experts.up_proj`` becomes layers ``experts.up_proj.0`` and so on.

    The function of the model stays; each expert sees the tokens routed to it. Nothing is copied.
    """
    for module in list(model.modules()):
        names = stacks(module)
        if not names or refusal(module) is not None:
            continue
        held: Any = module
        held.config._experts_implementation = "eager"  # others read the whole stack
        for name in names:
            weights = module._parameters.pop(name)
            assert weights is not None
            module.add_module(name, Stack(weights, bool(held.is_transposed)))
    return model
