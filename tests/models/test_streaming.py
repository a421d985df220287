"""A streamed model is the folder's: parameters come into memory block by block and leave again; damage is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lowbit.errors import ModelError
from lowbit.models.huggingface import HuggingFace
from lowbit.models.streaming import Streamed


@pytest.fixture(params=[{}, {"tied": True, "shard": "60KB"}], ids=["one file", "tied, sharded"])
def folder(request, llama_folder, tmp_path):
    return Path(shutil.copytree(llama_folder(**request.param), tmp_path / "llama"))


def resident(model):
    return {n for n, p in model.module.named_parameters() if p.device.type != "meta"}


def test_blocks_come_and_go(folder):
    model, full = Streamed.open(str(folder)), HuggingFace.load(str(folder))
    assert resident(model) == set()
    theirs = dict(full.module.named_parameters())
    with model.resident("model.layers.1"):
        here = {n: p for n, p in model.module.named_parameters() if p.device.type != "meta"}
        assert set(here) == {n for n in theirs if n.startswith("model.layers.1.")}
        assert all(torch.equal(p, theirs[n]) for n, p in here.items())
    assert resident(model) == set()


def test_they_go_even_when_the_block_fails(folder):
    model = Streamed.open(str(folder))
    with pytest.raises(ValueError, match="it"), model.resident("model.layers.0"):
        raise ValueError("it")
    assert resident(model) == set()


def test_every_parameter_can_be_read_by_each_of_its_names(folder):
    model, full = Streamed.open(str(folder)), HuggingFace.load(str(folder))
    for name, parameter in full.module.named_parameters(remove_duplicate=False):
        assert torch.equal(model.read(name), parameter)
    with model.resident(""):
        pass
    assert torch.equal(model.read("lm_head.weight"), full.module.lm_head.weight)


def test_a_dtype_is_what_is_computed_in(llama_folder):
    model = Streamed.open(str(llama_folder()), torch.bfloat16)
    assert model.read("model.norm.weight").dtype == torch.bfloat16


def test_the_bytes_of_its_files(folder):
    assert Streamed.open(str(folder)).stored_nbytes() == sum(p.stat().st_size for p in folder.glob("*.safetensors"))


def test_what_is_no_such_folder_is_named(folder, tmp_path):
    for name in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ModelError, match="holds no safetensors files"):
            Streamed.open(str(name))


def test_a_missing_tensor_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lacks 9 tensors of its model, the first is 'model.layers.2"):
        Streamed.open(str(folder))


def test_a_truncated_file_is_named(llama_folder, tmp_path):
    folder = Path(shutil.copytree(llama_folder(), tmp_path / "llama"))
    model = Streamed.open(str(folder))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model.safetensors' is missing, truncated or damaged"):
        model.read("model.norm.weight")
    with pytest.raises(ModelError, match="the safetensors files of .* cannot be read"):
        Streamed.open(str(folder))


def test_an_index_that_points_outside_is_refused(llama_folder, tmp_path):
    folder = Path(shutil.copytree(llama_folder(shard="60KB"), tmp_path / "llama"))
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.norm.weight"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"points outside of its folder for 'model.norm.weight'"):
        Streamed.open(str(folder))
    index.write_text("{")
    with pytest.raises(ModelError, match="the safetensors files of .* cannot be read"):
        Streamed.open(str(folder))
