"""A model is opened by what a user calls it; a device or dtype that is not there is named before anything is read."""

import pytest
import torch

from lowbit.errors import ModelError
from lowbit.models.builtin import Builtin
from lowbit.models.huggingface import HuggingFace
from lowbit.models.opening import check_device, open_original


def test_the_builtin_model_and_a_folder(llama_folder, monkeypatch, tmp_path):
    (tmp_path / "builtin").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name does not hide the model
    assert isinstance(open_original("builtin"), Builtin)
    assert isinstance(open_original(str(llama_folder())), HuggingFace)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_by_name(name, llama_folder):
    for model in (open_original("builtin", dtype=name), open_original(str(llama_folder()), dtype=name)):
        assert {p.dtype for p in model.module.parameters()} == {getattr(torch, name)}


def test_an_unknown_dtype_is_named():
    with pytest.raises(ModelError, match="no dtype is called 'int8'; models are computed in float32, bfloat16, float16"):
        open_original("nothing that is there", dtype="int8")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "", "cpu:x", "vulkan"])
def test_a_device_that_is_not_there_is_named_in_one_line(device):
    with pytest.raises(ModelError, match=rf"the device '{device}' cannot be used; this torch can use cpu") as caught:
        open_original("nothing that is there", device=device)
    assert len(str(caught.value)) < 200


def test_the_cpu_is_always_there():
    check_device("cpu")
