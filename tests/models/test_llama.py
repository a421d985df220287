"""The Llama: it is Hugging Face's, a cache changes nothing, a row knows nothing of its batch, errors name the value."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load

from lowbit.errors import DataError, LowbitError, ModelError, ShapeError, UnsupportedError
from lowbit.models.builtin import FOLDER
from lowbit.models.llama import Cache, Llama, LlamaConfig

CONFIG = LlamaConfig(
    vocab_size=96,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=64,
)


def random_llama(config):
    torch.manual_seed(0)
    model = Llama(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.ndim == 1), std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return random_llama(CONFIG)


@pytest.fixture
def ids():
    return torch.randint(CONFIG.vocab_size, (3, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "change",
    [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4, "head_dim": 16}, {"rope_theta": 500.0}],
    ids=["plain", "tied", "heads", "theta"],
)
@torch.no_grad()
def test_the_logits_are_those_of_hugging_face(change, ids):
    transformers = pytest.importorskip("transformers")
    model = random_llama(dataclasses.replace(CONFIG, **change))
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(model.config.to_dict())).eval()
    theirs.load_state_dict(model.state_dict())
    assert list(model.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_a_config_of_hugging_face_is_read():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaConfig.from_dict(CONFIG.to_dict()).to_dict()
    assert LlamaConfig.from_dict(theirs) == CONFIG


@pytest.mark.parametrize("cuts", [(40,), (1, 39), (7, 1, 32), (1,) * 40])
@torch.no_grad()
def test_a_cache_changes_nothing(model, ids, cuts):
    cache = Cache()
    logits = torch.cat([model(part, cache) for part in ids.split(cuts, 1)], 1)
    assert cache.length == 40
    torch.testing.assert_close(logits, model(ids), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_row_knows_nothing_of_its_batch(model, ids):
    alone = torch.cat([model(row[None]) for row in ids])
    torch.testing.assert_close(model(ids), alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_token_knows_nothing_of_its_future(model, ids):
    changed = ids.clone()
    changed[:, 20:] = 0
    torch.testing.assert_close(model(ids)[:, :20], model(changed)[:, :20], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_greedy_generation_takes_the_likeliest_token(model, ids):
    longer = model.generate(ids[:, :8], 20)
    assert torch.equal(longer[:, :8], ids[:, :8])
    assert torch.equal(longer[:, 8:], model(longer)[:, 7:-1].argmax(-1))


def test_drawn_rows_repeat_alone(model, ids):
    together = model.generate(ids[:, :8], 20, temperature=1.0, seed=5)
    assert torch.equal(together[2:], model.generate(ids[2:, :8], 20, temperature=1.0, seed=7))
    assert not torch.equal(together, model.generate(ids[:, :8], 20, temperature=1.0, seed=6))


def test_zero_new_tokens_are_the_prompt(model, ids):
    assert torch.equal(model.generate(ids, 0), ids)


def test_bfloat16_runs_and_is_near(model, ids):
    small = random_llama(CONFIG).bfloat16()
    with torch.no_grad():
        exact, rounded = model(ids), small(ids)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 0.05 * exact.norm()


def test_a_model_without_memory_has_shapes():
    with torch.device("meta"):
        logits = Llama(CONFIG)(torch.zeros(2, 5, dtype=torch.int64))
    assert logits.shape == (2, 5, 96)


@pytest.mark.parametrize(
    "ids, error, message",
    [
        (torch.tensor([[3, 96]]), DataError, "token id 96 is outside the vocabulary of 96"),
        (torch.tensor([[3, -1]]), DataError, "token id -1 is outside the vocabulary of 96"),
        (torch.zeros(1, 0, dtype=torch.int64), ShapeError, r"input_ids are \(1, 0\)"),
        (torch.zeros(5, dtype=torch.int64), ShapeError, r"input_ids are \(5,\)"),
        (torch.zeros(1, 5), DataError, "input_ids are torch.float32"),
        (torch.zeros(1, 65, dtype=torch.int64), ShapeError, "65 tokens are more than the 64 positions"),
    ],
)
def test_wrong_ids_are_named(model, ids, error, message):
    with pytest.raises(error, match=message):
        model(ids)


def test_another_batch_than_the_caches_is_named(model, ids):
    cache = Cache()
    model(ids[:2, :8], cache)
    with pytest.raises(ShapeError, match="the cache holds 2 sequences, but the input has 3"):
        model(ids[:, :8], cache)


@pytest.mark.parametrize("wrong", [{"max_new_tokens": -1}, {"max_new_tokens": 1, "temperature": -0.5}])
def test_wrong_generation_is_named(model, ids, wrong):
    with pytest.raises(LowbitError, match="neither goes below 0"):
        model.generate(ids, **wrong)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"model_type": "qwen2"}, UnsupportedError, "model_type is 'qwen2'"),
        ({"hidden_act": "gelu"}, UnsupportedError, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, UnsupportedError, "attention_bias is True"),
        ({"rope_scaling": {"rope_type": "llama3"}}, UnsupportedError, "rope_type is 'llama3'"),
        ({"hidden_size": None}, ModelError, "the config has no hidden_size"),
        ({"num_key_value_heads": 3}, ModelError, "4 attention heads do not share out over 3"),
        ({"head_dim": 31}, ModelError, "head_dim is 31"),
        ({"num_hidden_layers": 0}, ModelError, "num_hidden_layers is 0"),
    ],
)
def test_a_config_this_llama_does_not_compute_is_named(change, error, message):
    with pytest.raises(error, match=message):
        LlamaConfig.from_dict(CONFIG.to_dict() | change)


@torch.no_grad()
def test_the_builtin_model_predicts_the_heldout_text_as_its_record_says():
    """The record is of the whole text, this of its first 40 windows, which are a little harder."""
    builtin = FOLDER
    model = Llama(LlamaConfig.from_dict(json.loads((builtin / "config.json").read_text())))
    model.load_state_dict(load((builtin / "model.safetensors").read_bytes()))
    text = torch.frombuffer(bytearray((builtin / "heldout.txt").read_bytes()), dtype=torch.uint8)
    windows = text[: 40 * 512].view(40, 512).long()
    loss = torch.nn.functional.cross_entropy(model(windows)[:, :-1].mT, windows[:, 1:]).item()
    record = json.loads((builtin / "training.json").read_text())
    assert len(text) == record["heldout_bytes"]
    assert abs(loss - record["heldout_nats_per_byte"]) < 0.03
