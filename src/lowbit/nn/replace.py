"""Which modules are quantized, and how their packed versions take their place."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lowbit.catalog import nearest
from lowbit.errors import UnknownName
from lowbit.nn.convolution import Convolution
from lowbit.nn.embedding import Embedding
from lowbit.nn.linear import Linear
from lowbit.nn.packed import PackedWeight
from lowbit.quantizers.quantizer import Quantizer

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
ONLY = ("Linear", "Conv1d", "Conv2d", "Conv3d")
IGNORE = ("lm_head",)


@dataclass(frozen=True)
class Target:
    """One module whose weight is to be quantized.

    Args:
        name: as in ``named_modules``.
        module: the torch layer.
    """

    name: str
    module: nn.Module

    @property
    def matrix(self) -> Tensor:
        """The weight as a matrix, (out, in); that of a convolution is flattened behind its first axis."""
        return self.module.weight.detach().flatten(1)  # type: ignore[operator, union-attr, no-any-return]


def matches(pattern: str, name: str, module: nn.Module) -> bool:
    """Whether a pattern means this module: a class name, a glob on the module's name, or ``re:`` and a regular expression."""
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], name) is not None
    return pattern == type(module).__name__ or any(pattern == k.__name__ for k in type(module).__mro__) or fnmatch.fnmatchcase(name, pattern)


def targets(model: nn.Module, only: Sequence[str] = ONLY, ignore: Sequence[str] = IGNORE) -> list[Target]:
    """The modules to quantize, in the order of the model: those that match ``only`` and none of ``ignore``.

    Raises:
        UnknownName: nothing matches, or a pattern of ``only`` that is no default matches nothing.
    """
    able = [(n, m) for n, m in model.named_modules() if isinstance(m, KINDS)]
    for pattern in only:
        if pattern not in ONLY and not any(matches(pattern, n, m) for n, m in able):
            known = [n for n, _ in able]
            raise UnknownName(f"--only {pattern!r} matches none of the {len(known)} layers{nearest(pattern, known)}")
    found = [
        Target(n, m) for n, m in able if any(matches(p, n, m) for p in only) and not any(matches(p, n, m) for p in ignore)
    ]
    if not found:
        raise UnknownName(f"no layer is left to quantize: {len(able)} could be, --only is {list(only)}, --ignore is {list(ignore)}")
    return found


def packed_module(layer: nn.Module, weight: PackedWeight, activations: Quantizer | None = None) -> nn.Module:
    """The module that serves a torch layer with its weight packed."""
    if isinstance(layer, nn.Embedding):
        scale = getattr(layer, "scalar_embed_scale", 1.0)
        return Embedding(weight, layer.padding_idx, float(scale))
    if isinstance(layer, nn.Linear):
        return Linear(weight, layer.bias, activations)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return Convolution(weight, layer)


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module of that name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
