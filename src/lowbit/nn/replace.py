"""Which modules are quantized, and how their packed versions take their place."""

from __future__ import annotations

import copy
import difflib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowbit.errors import SpecError, UnknownName, UnsupportedError
from lowbit.nn.change import hand_over
from lowbit.nn.convolution import Convolution
from lowbit.nn.embedding import Embedding
from lowbit.nn.experts import refusal as stacked
from lowbit.nn.linear import Linear
from lowbit.nn.packed import PackedWeight
from lowbit.quantizers.quantizer import Quantizer

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
ONLY = ("Linear", "Conv1d", "Conv2d", "Conv3d")
IGNORE = ("lm_head",)

Layers = Sequence[tuple[str, nn.Module]]


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
    """Whether a pattern means this module: a class name, a glob on the module's name, or ``re:`` and a regular expression.

    Raises:
        SpecError: the regular expression cannot be parsed.
    """
    if pattern.startswith("re:"):
        try:
            return re.fullmatch(pattern[3:], name) is not None
        except re.error as error:
            raise SpecError(f"the pattern {pattern!r} is no regular expression: {error}") from None
    return any(pattern == k.__name__ for k in type(module).__mro__) or fnmatch.fnmatchcase(name, pattern)


def refusal(module: nn.Module) -> str | None:
    """Why a layer of one of ``KINDS`` cannot be replaced, or None when it can."""
    kind = next(k for k in KINDS if isinstance(module, k))
    if not isinstance(module._parameters.get("weight"), nn.Parameter):
        return "its weight is computed from other parameters"
    if getattr(module, "max_norm", None) is not None:
        return "it changes its own rows (max_norm)"
    if type(module).forward is not kind.forward and not hasattr(module, "scalar_embed_scale"):
        return f"{type(module).__name__} computes something of its own"
    return None


def left_alone(model: nn.Module, only: Sequence[str] = ONLY, ignore: Sequence[str] = IGNORE) -> dict[str, str]:
    """Name and reason of each layer that the patterns ask for but that cannot be replaced."""
    found = {}
    for name, module in _layers(model):
        reason = refusal(module)
        if reason is not None and _asked(name, module, only, ignore):
            found[name] = reason
    for name, module in model.named_modules():
        reason = stacked(module)
        if reason is not None and not any(matches(p, name, module) for p in ignore):
            found[name] = reason
    return found


def targets(model: nn.Module, only: Sequence[str] = ONLY, ignore: Sequence[str] = IGNORE) -> list[Target]:
    """The modules to quantize, in the order of the model: those that match ``only`` and none of ``ignore``.

    Raises:
        UnknownName: nothing matches, or a pattern that is no default matches nothing.
        SpecError: a regular expression that cannot be parsed.
        UnsupportedError: the model is itself a layer, so nothing holds it.
    """
    if isinstance(model, KINDS):
        kind = type(model).__name__
        raise UnsupportedError(f"the model is itself a {kind}; put it into a Sequential, or use lowbit.nn.Linear.from_float")
    layers = _layers(model)
    able = [(n, m) for n, m in layers if refusal(m) is None]
    _check_patterns("--only", only, ONLY, able, layers)
    _check_patterns("--ignore", ignore, IGNORE, layers, layers)
    found = [Target(n, m) for n, m in able if _asked(n, m, only, ignore)]
    if not found:
        raise UnknownName(f"no layer is left to quantize: {len(able)} could be, --only is {list(only)}, --ignore is {list(ignore)}")
    return found


def _layers(model: nn.Module) -> Layers:
    return [(n, m) for n, m in model.named_modules() if isinstance(m, KINDS)]


def _asked(name: str, module: nn.Module, only: Sequence[str], ignore: Sequence[str]) -> bool:
    return any(matches(p, name, module) for p in only) and not any(matches(p, name, module) for p in ignore)


def _check_patterns(option: str, patterns: Sequence[str], usual: Sequence[str], possible: Layers, layers: Layers) -> None:
    if isinstance(patterns, str):
        raise UnknownName(f"{option.strip('-')} is the string {patterns!r}; give a list of patterns, for instance [{patterns!r}]")
    for pattern in patterns:
        if pattern in usual or any(matches(pattern, n, m) for n, m in possible):
            continue
        refused = [f"; {n} cannot be quantized: {refusal(m)}" for n, m in layers if matches(pattern, n, m)]
        hint = refused[0] if refused else nearest_layer(pattern, [n for n, _ in possible])
        raise UnknownName(f"{option} {pattern!r} matches none of the {len(possible)} layers{hint}")


def nearest_layer(pattern: str, known: Sequence[str]) -> str:
    """A hint for a pattern that matches nothing: the nearest name, or the first one."""
    close = difflib.get_close_matches(pattern, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; one of them is {known[0]!r}" if known else ""


def packed_module(
    layer: nn.Module, weight: PackedWeight, activations: Quantizer | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """The module that serves a torch layer with its weight packed.

    Args:
        activations: the quantizer of a linear layer's inputs.
        dtype: of an embedding's rows; by default that of its table.
    """
    packed: nn.Module
    if isinstance(layer, nn.Embedding):
        dtype = dtype or layer.weight.dtype
        scale = torch.tensor(float(getattr(layer, "scalar_embed_scale", 1.0))).to(dtype)
        packed = Embedding(weight, layer.padding_idx, float(scale), dtype)
    elif isinstance(layer, nn.Linear):
        packed = Linear(weight, layer.bias, activations)
    else:
        assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        packed = Convolution(weight, layer)
    return packed.train(layer.training)


def dense_module(packed: Linear | Embedding | Convolution) -> nn.Module:
    """The torch layer on the numbers of a packed one, or of its view, in float32; activations are left as they are."""
    W = packed.weight.viewed().dequantize()
    if isinstance(packed, Embedding):
        layer: nn.Module = nn.Embedding.from_pretrained(W * packed.scale, padding_idx=packed.padding_idx)
    elif isinstance(packed, Linear):
        layer = nn.Linear(packed.in_features, packed.out_features, bias=packed.bias is not None, device="meta")
        layer.weight = nn.Parameter(W, requires_grad=False)
    else:
        layer = copy.copy(packed.layer)
        layer._parameters = {"weight": nn.Parameter(W.reshape(packed.kernel), requires_grad=False), "bias": None}
    if not isinstance(packed, Embedding) and packed.bias is not None:
        layer.bias = nn.Parameter(packed.bias.detach().clone(), requires_grad=False)
    return layer.train(packed.training)


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module of that name, wherever the model holds it; changes of basis go over to the new one."""
    old = model.get_submodule(name)
    hand_over(old, module)
    for parent in list(model.modules()):
        for child, held in parent._modules.items():
            if held is old:
                setattr(parent, child, module)
