"""Both kinds of model keep the contract that evaluation, quantization and checkpoints rely on."""

import pytest
import torch
from torch import nn

from lowbit.models.model import device_of
from lowbit.models.opening import open_original


@pytest.fixture(params=["builtin", "huggingface"])
def model(request, llama_folder):
    return open_original("builtin" if request.param == "builtin" else str(llama_folder()))


def test_logits_are_float32_without_gradients_and_causal(model):
    ids = model.encode("def f(x): pass")[None]
    changed = ids.clone()
    changed[0, -3:] = 7
    logits = model.logits(ids)
    assert (logits.dtype, logits.requires_grad, logits.shape[:2]) == (torch.float32, False, ids.shape)
    torch.testing.assert_close(model.logits(changed)[0, :-3], logits[0, :-3], rtol=1e-4, atol=1e-4)
    assert not model.module.training


def test_it_says_what_it_is(model):
    assert model.kind in ("builtin", "huggingface")
    assert isinstance(model.name, str)
    assert isinstance(model.notes, tuple)
    assert model.context >= 128
    assert model.usual_text in ("builtin", "pydoc")


def test_the_device_is_that_of_the_first_number():
    assert device_of(nn.ReLU()).type == "cpu"
    assert device_of(nn.Linear(2, 2, device="meta")).type == "meta"
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")).type == "meta"
