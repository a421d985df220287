"""Quantize a model: every chosen layer goes through the solver and is replaced by its packed version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lowbit.data.text import Text
from lowbit.errors import DataError
from lowbit.nn.experts import unstack
from lowbit.nn.packed import PackedWeight
from lowbit.nn.replace import IGNORE, ONLY, packed_module, put
from lowbit.progress import ProgressCallback
from lowbit.quantizers.quantizer import Quantizer
from lowbit.recipes.calibrate import calibrate
from lowbit.recipes.calibration_data import calibration_source
from lowbit.recipes.plan import plan
from lowbit.recipes.transforming import Edits
from lowbit.recipes.walk import Source
from lowbit.solvers.solver import Solver
from lowbit.transforms.transform import Transform


def quantize(
    model: Any,
    weights: str | Quantizer = "nvfp4",
    *,
    solver: str | Solver = "rtn",
    transforms: Sequence[str | Transform] = (),
    activations: str | Quantizer | None = None,
    only: Sequence[str] = ONLY,
    ignore: Sequence[str] = IGNORE,
    override: Mapping[str, str | Quantizer] | None = None,
    data: Text | str | Sequence[Text | str] | Source = (),
    sequences: int = 32,
    length: int = 512,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Any:
    """Quantize a model in place and return it: ``lowbit.quantize(model, weights="nvfp4")``.

    Stacked experts are taken apart first: each is a layer of its own, ``experts.up_proj.0``.

    Args:
        model: any ``torch.nn.Module``, or a language model of ``lowbit.models``.
        weights: a spec string or quantizer for every chosen layer.
        solver: which codes a weight gets; ``rtn`` needs no data.
        transforms: changes of basis before the weights are quantized, in their order: ``["smoothquant", "hadamard:size=64"]``.
        activations: a quantizer for the inputs of the chosen linear layers; None leaves them.
        only, ignore: class names, globs on layer names, or ``re:`` and a regular expression; ``lm_head`` is kept by default.
        override: pattern -> quantizer, for layers that differ.
        data: for solvers that need it: a text or its name, or several, of which ``sequences`` windows of ``length`` tokens are
            taken; or a ``Source``, samples and how to run the model on one of them, for any module.
        seed: of stochastic roundings.
        progress: called with every ``Progress`` event.

    Raises:
        LowbitError: something does not fit; nothing has been changed then.
    """
    module: nn.Module = unstack(model if isinstance(model, nn.Module) else model.module)
    made = plan(module, weights, solver, transforms=transforms, activations=activations, only=only, ignore=ignore, override=override)
    if isinstance(data, Source):
        source = data
    elif isinstance(model, nn.Module):
        if made.calibrated or made.transforms:
            raise DataError(f"{type(model).__name__} has no tokenizer: give data=Source(samples, forward) with what its forward takes")
        source = Source((), model)
    else:
        source = calibration_source(model, [made], data, sequences, length)
    originals = [(p.target.module, p.target.module.weight) for p in made.layers]
    packed = []
    edits = Edits(module)
    try:
        for done in calibrate(module, made, source, seed=seed, progress=progress, edits=edits):
            packed += [(s.layer, PackedWeight.of(s.weight), done.inputs.get(s.layer.name, made.activations)) for s in done.solved]
    except BaseException:
        edits.undo()
        raise
    finally:
        for layer, weight in originals:
            layer.weight = weight
    first: dict[int, PackedWeight] = {}
    for planned, parts, inputs in packed:
        twin = first.setdefault(id(planned.target.module.weight), parts)  # a tied weight is held once
        held = twin if twin.same(parts) else parts
        put(module, planned.name, packed_module(planned.target.module, held, inputs))
    return model
