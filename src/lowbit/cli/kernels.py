"""lowbit kernels MODEL_OR_SHAPE: which kernel runs for which layer, and why faster ones refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from lowbit.checkpoint.reading import open_model
from lowbit.cli.doctor import cpu_target
from lowbit.kernels.cpu.linear_layout import PackedLinear
from lowbit.kernels.cpu.qlinear import many_rows
from lowbit.kernels.op import GATHER
from lowbit.nn.convolution import Convolution
from lowbit.nn.decoder import FusedDecoder
from lowbit.nn.embedding import Embedding
from lowbit.nn.linear import Linear, Route
from lowbit.nn.replace import IGNORE, ONLY, targets

SHAPE = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class Layer:
    """A layer and what runs for it."""

    name: str
    shape: tuple[int, ...]
    weights: str
    route: Route
    many: str  # the kernel for many rows of inputs


def route(module: nn.Module) -> Route:
    """Which kernel serves a packed module."""
    if isinstance(module, Linear | Convolution):
        return module.route()
    assert isinstance(module, Embedding)
    kernel, refusals = GATHER.plan(torch.zeros(1, dtype=torch.int64), module.weight.layout())
    return Route("torch" if kernel is None else "gather", "; ".join(f"gather: {r}" for r in refusals.values()))


def layer(name: str, module: nn.Module) -> Layer:
    assert isinstance(module, Linear | Embedding | Convolution)
    specs = " + ".join(t.get("spec", t["kind"]) for t in module.weight.describe())
    kernel, layout, many = route(module), module.weight.layout(), ""
    if not isinstance(layout, str) and kernel.kernel in ("qlinear", "qlinear_int8"):
        many = many_rows(layout, integer=kernel.kernel == "qlinear_int8") if isinstance(layout, PackedLinear) else layout.many
    return Layer(name, tuple(module.weight.shape), specs, kernel, many)


def packed_layers(module: nn.Module) -> Iterator[Layer]:
    """The packed layers of a model."""
    for name, each in module.named_modules():
        if isinstance(each, Linear | Embedding | Convolution):
            yield layer(name, each)


def imagined_layers(module: nn.Module, weights: str, activations: str | None) -> Iterator[Layer]:
    """The linear layers of a model as they would be; one of each shape is quantized."""
    made: dict[tuple[int, ...], Layer] = {}
    for target in targets(module, ONLY, IGNORE):
        if isinstance(target.module, nn.Linear):
            shape = tuple(target.matrix.shape)
            if shape not in made:
                made[shape] = layer(target.name, Linear.from_float(target.module, weights, activations))
            yield Layer(target.name, shape, made[shape].weights, made[shape].route, made[shape].many)


def table(layers: list[Layer]) -> Table:
    """One row for layers that agree in everything but the name."""
    drawn = Table("layers", "first", "out x in", "weights", "kernel", "why none faster")
    groups: dict[tuple[object, ...], list[Layer]] = {}
    for each in layers:
        groups.setdefault((each.shape, each.weights, each.route), []).append(each)
    for same in groups.values():
        first = same[0]
        drawn.add_row(str(len(same)), first.name, "x".join(map(str, first.shape)), first.weights, first.route.kernel, first.route.refused)
    return drawn


def run(
    model_or_shape: Annotated[str, typer.Argument(help="a model or checkpoint, or the shape of a weight: 4096x4096 (out x in)")],
    weights: Annotated[str | None, typer.Option(help="a spec string: what would run if the layers were quantized so")] = None,
    activations: Annotated[str | None, typer.Option(help="a spec string for the layers' inputs")] = None,
) -> None:
    """Say which kernel runs for which layer, and why faster ones refused."""
    shape, generation = SHAPE.fullmatch(model_or_shape), None
    if shape:
        float_layer = nn.Linear(int(shape[2]), int(shape[1]), bias=False)
        layers = [layer("", Linear.from_float(float_layer, weights or "nvfp4", activations))]
    else:
        model = open_model(model_or_shape)
        if weights is not None:
            layers = list(imagined_layers(model.module, weights, activations))
        else:
            layers, decoder = list(packed_layers(model.module)), model.fused()
            generation = "one call of the extension a step" if isinstance(decoder, FusedDecoder) else f"module by module: {decoder}"
    found = cpu_target()
    print(f"kernels: {'C++ extension, ' + found['target'] if found else 'torch only; the C++ extension was not built'}")
    for why in found["refused"] if found else []:
        print(f"not used: {why}")
    if layers:
        Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140).print(table(layers))
        for kernel, many in dict.fromkeys((each.route.kernel, each.many) for each in layers if each.many):
            print(f"many rows of inputs: {kernel}: {many}")
    else:
        print("no layer is packed; --weights SPEC says what would run")
    if generation is not None:
        print(f"generation: {generation}")
