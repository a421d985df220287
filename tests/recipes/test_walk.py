"""Batches of a loader are taken apart, so that their size changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from lowbit.errors import DataError
from lowbit.models.llama import Llama, LlamaConfig
from lowbit.recipes.quantize import quantize
from lowbit.recipes.walk import Source


@pytest.mark.parametrize("solver", ["gptq", "qep"])
@pytest.mark.parametrize("named", [False, True])
def test_the_batches_of_a_loader_change_no_byte(solver: str, named: bool) -> None:
    torch.manual_seed(0)
    original, ids, found = Llama(LlamaConfig(40, 32, 64, 2, 2, 1, 16, 64)).eval(), torch.randint(0, 40, (16, 24)), []
    for batch in (1, 8, 5):
        model, parts = copy.deepcopy(original), ids.split(batch)
        if named:
            source = Source.from_batches([{"ids": part} for part in parts], lambda one: model(one["ids"]))  # noqa: B023
        else:
            source = Source.from_batches(parts, model)
        quantize(model, "int4 g32", solver=solver, data=source)
        found.append({name: layer.weight.dense() for name, layer in model.named_modules() if hasattr(layer, "route")})
    assert found[0]
    assert all(torch.equal(v, other[k]) for other in found[1:] for k, v in found[0].items())


def test_tensors_of_a_batch_come_apart_together() -> None:
    source = Source.from_batches([(torch.arange(6).view(3, 2), torch.arange(3))], print)
    assert [(a.tolist(), b.tolist()) for a, b in source.samples] == [([[0, 1]], [0]), ([[2, 3]], [1]), ([[4, 5]], [2])]


def test_tensors_of_a_batch_that_do_not_belong_together() -> None:
    with pytest.raises(DataError, match="hold 3 and 4 sequences"):
        Source.from_batches([(torch.zeros(4, 2), torch.zeros(3, 2))], print)
    with pytest.raises(DataError, match="no sequences"):
        Source.from_batches([{}], print)
