"""The built-in model: bytes in, bytes out, the same numbers from the package and from a folder."""

import json
import shutil

import pytest
import torch

from lowbit.errors import DataError, LowbitError, ModelError
from lowbit.models.builtin import FOLDER, Builtin

TEXT = "def f(x):\n    return x  # ä\n"


@pytest.fixture(scope="module")
def model():
    return Builtin.load()


def test_it_is_a_trained_model_of_four_million_weights(model):
    assert 3.5e6 < sum(p.numel() for p in model.module.parameters()) < 4.5e6
    ids = model.encode("import os\nimport sys\n\ndef main():\n    return ")[None]
    logits = model.logits(ids)
    assert logits.shape == (1, ids.shape[1], 256)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).item()
    assert loss < 1.5  # a guess among 256 bytes costs 5.5 nats


def test_tokens_are_the_bytes_of_utf8(model):
    assert model.encode(TEXT).tolist() == list(TEXT.encode())
    assert model.decode(model.encode(TEXT)) == TEXT
    assert model.encode("").tolist() == []
    assert model.decode(torch.tensor([0, 104, 105, 0])) == "hi"
    assert model.decode(torch.tensor([0xC3])) == "\ufffd"


def test_generation_starts_a_document(model):
    ids = torch.cat((torch.zeros(1, dtype=torch.int64), model.encode("import ")))[None]
    expected = model.module.generate(ids, 16)[0, ids.shape[1] :]
    assert model.generate("import ", 16) == model.decode(expected)
    assert len(model.generate("", 16)) == 16


def test_drawn_text_depends_on_the_seed_alone(model):
    drawn = [model.generate("def ", 24, temperature=1.0, seed=seed) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_it_is_near(model, dtype):
    small = Builtin.load(dtype=dtype)
    ids = model.encode(TEXT)[None]
    assert {p.dtype for p in small.module.parameters()} == {dtype}
    assert small.logits(ids).dtype == torch.float32
    assert (small.logits(ids) - model.logits(ids)).norm() < 0.02 * model.logits(ids).norm()


def test_the_assets_rebuild_it_without_weights(model, tmp_path):
    model.save_assets(tmp_path)
    empty = Builtin.empty(tmp_path)
    assert empty.context == model.context == 512
    assert {p.device.type for p in empty.module.parameters()} == {"meta"}
    assert {n: p.shape for n, p in empty.module.named_parameters()} == {n: p.shape for n, p in model.module.named_parameters()}


def test_tied_embeddings_are_tied_where_the_configuration_says_so(tmp_path):
    config = json.loads((FOLDER / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    model = Builtin.empty(tmp_path)
    model.module.lm_head.weight = torch.nn.Parameter(torch.zeros(256, 256))
    model.tie()
    assert model.module.lm_head.weight is model.module.model.embed_tokens.weight


def test_a_chat_and_a_prompt_beyond_the_context_are_refused(model):
    with pytest.raises(DataError, match="the built-in model has no chat template"):
        model.generate("hello", 4, chat=True)
    with pytest.raises(LowbitError, match="513 tokens are more than the 512 positions"):
        model.generate("x" * 500, 20)


@pytest.mark.parametrize("content", [None, "", "[1]", '{"vocab_size": 4}', '{"vocab_size": "many"}', "\x00"])
def test_a_damaged_configuration_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config.json' cannot be read|the config has no"):
        Builtin.empty(tmp_path)


def test_a_size_of_the_wrong_kind_is_named(tmp_path):
    config = json.loads((FOLDER / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": "256"}))
    with pytest.raises(ModelError, match=r"config.json' cannot be read"):
        Builtin.empty(tmp_path)


def test_missing_and_foreign_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("lowbit.models.builtin.FOLDER", tmp_path)
    shutil.copyfile(FOLDER / "config.json", tmp_path / "config.json")
    with pytest.raises(ModelError, match="weights are missing from this installation; reinstall lowbit"):
        Builtin.load()
    config = json.loads((FOLDER / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 6}))
    shutil.copyfile(FOLDER / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"do not fit the code: missing \['model.layers.5"):
        Builtin.load()
