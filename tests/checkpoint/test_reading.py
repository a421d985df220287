"""What was written is what is read, bit for bit; tied tensors are one; and every kind of damage has its one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import lowbit
from lowbit.checkpoint import reading
from lowbit.checkpoint.layout import MANIFEST, checksum, digest, read_manifest, shard_name
from lowbit.checkpoint.reading import Tensors, check_files, load, open_model
from lowbit.errors import CheckpointError, LowbitError, ModelError
from lowbit.models.builtin import Builtin
from lowbit.models.llama import Llama, LlamaConfig
from lowbit.nn.packed import PackedWeight
from lowbit.nn.replace import ONLY
from lowbit.recipes.export import save

TEXT = "def f(x):\n    return x\n"
SIZES = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def small_builtin(tied=False, seed=0):
    """The built-in model's code with other sizes and random numbers."""
    torch.manual_seed(seed)
    sizes = SIZES | {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "tie_word_embeddings": tied}
    return Builtin(Llama(LlamaConfig(**sizes)).eval(), 128)


def opened(kind, llama_folder):
    name, _, option = kind.partition(" ")
    if name == "builtin":
        return small_builtin(tied=option == "tied")
    return open_model(str(llama_folder(tied=option == "tied", dtype="bfloat16" if option == "bfloat16" else "float32")))


def logits(model):
    return model.logits(model.encode(TEXT)[None])


QUANTIZED = {
    "nothing": None,
    "nvfp4": {"weights": "nvfp4"},
    "mixed": {"weights": "int4 g32 asym", "override": {"*.down_proj": "int8", "*.0.*.q_proj": "nf4"}, "activations": "mxfp8"},
    "all": {"weights": "mxfp4", "only": [*ONLY, "Embedding"], "ignore": []},
    "table": {"weights": "int8", "only": ["Embedding"]},
    "literal table": {"weights": "table(-1;-0.25;0;0.5) g16"},
}


@pytest.mark.parametrize("quantized", QUANTIZED.values(), ids=QUANTIZED)
@pytest.mark.parametrize("kind", ["builtin", "builtin tied", "huggingface", "huggingface tied", "huggingface bfloat16"])
def test_a_written_model_computes_the_same_bits(kind, quantized, llama_folder, tmp_path):
    model = opened(kind, llama_folder)
    if quantized is not None:
        lowbit.quantize(model, **quantized)
    manifest = save(model, tmp_path / "out")
    again = load(tmp_path / "out")
    assert torch.equal(logits(again), logits(model))
    assert again.generate("de", 12) == model.generate("de", 12)
    assert list(again.module.state_dict()) == list(model.module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.module.state_dict().values(), model.module.state_dict().values(), strict=True))
    assert manifest == read_manifest(tmp_path / "out")
    assert (again.name, again.context, again.kind) == (str(tmp_path / "out"), model.context, model.kind)


def test_a_model_in_bfloat16_is_read_back_in_bfloat16(llama_folder, tmp_path):
    model = open_model(str(llama_folder(dtype="bfloat16")), dtype="bfloat16")
    lowbit.quantize(model, "int8", only=["Embedding", "Linear"])
    save(model, tmp_path / "out")
    again = load(tmp_path / "out")
    assert {p.dtype for p in again.module.parameters()} == {torch.bfloat16}
    assert again.module.model.embed_tokens.dtype == torch.bfloat16
    assert torch.equal(logits(again), logits(model))


def test_a_checkpoint_written_again_has_the_same_digest(llama_folder, tmp_path):
    model = opened("huggingface tied", llama_folder)
    lowbit.quantize(model, "nvfp4")
    first = save(model, tmp_path / "1")
    assert save(load(tmp_path / "1"), tmp_path / "2").digest == first.digest


def test_tied_tensors_are_stored_and_loaded_once(llama_folder, tmp_path):
    model = opened("huggingface tied", llama_folder)
    manifest = save(model, tmp_path / "out")
    assert manifest.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "lm_head.weight" not in manifest.tensors
    module = load(tmp_path / "out").module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    elements = sum(p.numel() for p in model.module.parameters())
    assert elements == sum(torch.Size(t.shape).numel() for t in manifest.tensors.values()) == sum(p.numel() for p in module.parameters())


def test_a_tie_that_only_the_checkpoint_knows_is_kept(tmp_path):
    model = small_builtin()
    layers = model.module.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    assert save(model, tmp_path / "out").tied == {"model.layers.1.mlp.up_proj.weight": "model.layers.0.mlp.up_proj.weight"}
    layers = load(tmp_path / "out").module.model.layers
    assert layers[1].mlp.up_proj.weight is layers[0].mlp.up_proj.weight


def test_tensors_are_read_one_at_a_time_from_the_shard_that_holds_them(tmp_path, monkeypatch):
    manifest = save(small_builtin(), tmp_path / "out", shard_bytes=20_000)
    places = {t.file for t in manifest.tensors.values()}
    assert len(places) > 3
    opened_files = []
    original = reading.safe_open
    monkeypatch.setattr(reading, "safe_open", lambda path, kind: opened_files.append(Path(path).name) or original(path, kind))
    tensors = Tensors(tmp_path / "out", manifest)
    assert opened_files == []
    assert tensors["model.norm.weight"].dtype == torch.float32
    assert opened_files == [manifest.tensors["model.norm.weight"].file]
    tensors["model.norm.weight"]
    assert len(opened_files) == 1


def test_a_name_that_is_not_there_is_named(tmp_path):
    manifest = save(small_builtin(), tmp_path / "out")
    with pytest.raises(CheckpointError, match="the checkpoint has no tensor 'nothing'"):
        Tensors(tmp_path / "out", manifest)["nothing"]


def test_dense_weights_are_kept_unless_told_otherwise(tmp_path):
    model = small_builtin()
    lowbit.quantize(model, "int8")
    save(model, tmp_path / "out")
    for keep in (True, False):
        module = load(tmp_path / "out", keep=keep).module
        module(torch.zeros(1, 4, dtype=torch.int64))
        packed = [m for m in module.modules() if isinstance(m, PackedWeight)]
        assert {m.kept is not None for m in packed} == {keep}


# ---- damage


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small checkpoint of three shards, with a quantized embedding beside quantized linear layers."""
    model = small_builtin()
    lowbit.quantize(model, "int4 g32", only=["*.mlp.*", "Embedding"], override={"Embedding": "ternary", "*.0.mlp.up_proj": "nvfp4"})
    folder = tmp_path_factory.mktemp("checkpoint") / "out"
    save(model, folder, shard_bytes=40_000)
    assert (folder / shard_name(3)).is_file()
    return folder, logits(model)


@pytest.fixture
def damaged(written, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(written[0], tmp_path / "out"))


def refused(folder, **options):
    with pytest.raises(CheckpointError) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(folder, change):
    """Change the manifest and its checksum with it, as somebody would who means it."""
    content = json.loads((folder / MANIFEST).read_text())
    content.pop("checksum")
    change(content)
    (folder / MANIFEST).write_text(json.dumps({**content, "checksum": checksum(content)}))


def test_the_copy_itself_loads(damaged, written):
    assert torch.equal(logits(load(damaged)), written[1])


@pytest.mark.parametrize("size", [0, 1, 7, 8, 200, 0.5, -1])
@pytest.mark.parametrize("shard", [1, 2, 3])
def test_a_truncated_shard(damaged, shard, size):
    path = damaged / shard_name(shard)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * size) if isinstance(size, float) else size])
    assert f"{path.name}' is missing, truncated or damaged (" in refused(damaged)


def test_a_missing_shard(damaged):
    (damaged / shard_name(2)).unlink()
    assert "model-00002.safetensors' is missing, truncated or damaged" in refused(damaged)


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.mlp.up_proj.weight.scale.scale", "model.embed_tokens.weight.codes"])
def test_a_flipped_byte(damaged, name):
    file = damaged / read_manifest(damaged).tensors[name].file
    tensors = load_file(file)
    data = file.read_bytes()
    size = tensors[name].numel() * tensors[name].element_size()
    raw = tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes()
    place = data.index(raw) + size // 2
    file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert f"{name}' in {file.name} has been changed: its digest is not that of the manifest" in refused(damaged)
    load(damaged, verify=False)  # who does not want digests compared does not get them compared


def test_swapped_shards(damaged):
    first, second = (damaged / shard_name(i) for i in (1, 2))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert "and the manifest name different tensors, for instance" in refused(damaged)


def test_a_shard_of_the_same_model_quantized_otherwise(damaged, tmp_path):
    model = small_builtin(seed=1)
    lowbit.quantize(model, "int4 g32", only=["*.mlp.*", "Embedding"], override={"Embedding": "ternary", "*.0.mlp.up_proj": "nvfp4"})
    save(model, tmp_path / "other", shard_bytes=40_000)
    shutil.copyfile(tmp_path / "other" / shard_name(2), damaged / shard_name(2))
    assert "has been changed: its digest is not that of the manifest" in refused(damaged)


def test_a_tensor_more_in_a_shard(damaged):
    path = damaged / shard_name(1)
    save_file(load_file(path) | {"another": torch.zeros(3)}, path)
    assert "and the manifest name different tensors, for instance 'another'" in refused(damaged)


def test_a_tensor_less_in_a_shard(damaged):
    path = damaged / shard_name(3)
    tensors = load_file(path)
    gone = min(tensors)
    del tensors[gone]
    save_file(tensors, path)
    assert f"and the manifest name different tensors, for instance {gone!r}" in refused(damaged)


def test_no_manifest(damaged):
    (damaged / MANIFEST).unlink()
    assert "holds no lowbit.json: it is no lowbit checkpoint, or its writing was cut off" in refused(damaged)
    with pytest.raises(CheckpointError, match="or its writing was cut off"):
        open_model(str(damaged))  # though it holds a config.json, as a folder of Hugging Face does


@pytest.mark.parametrize("name", ["config.json"])
def test_another_configuration(damaged, name):
    content = json.loads((damaged / name).read_text())
    (damaged / name).write_text(json.dumps(content | {"rope_theta": 500.0}))
    assert f"{name}' is changed: its digest is not that of the manifest; copy it again" in refused(damaged)
    (damaged / name).unlink()
    assert f"{name}' is missing: its digest is not that of the manifest" in refused(damaged)
    assert "config.json' cannot be read" in refused(damaged, verify=False)


def test_a_tokenizer_that_was_not_there(damaged):
    (damaged / "tokenizer.json").write_text("{}")
    assert "tokenizer.json' is not of this checkpoint" in refused(damaged)


def test_a_tokenizer_that_was_changed(llama_folder, tmp_path):
    save(open_model(str(llama_folder())), tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    check_files(tmp_path / "out", manifest)
    path = tmp_path / "out" / "tokenizer.json"
    path.write_text(path.read_text().replace("<model>", "<Model>"))
    assert "tokenizer.json' is changed" in refused(tmp_path / "out")


LAYER, CODES = "model.layers.1.mlp.up_proj", "model.layers.1.mlp.up_proj.weight.codes"


def layer(**changes):
    return lambda content: content["layers"][LAYER].update(changes)


def codes(**changes):
    return lambda content: content["tensors"][CODES].update(changes)


def layers(name):
    return lambda content: content["layers"].update({name: content["layers"][LAYER]})


def tied(name, source="model.norm.weight"):
    return lambda content: content["tied"].update({name: source})


INT4 = {"kind": "quantized", "spec": "int4 g32"}
FORGED = {
    "another kind of model": (lambda c: c.update(kind="gpt5"), "the checkpoint is of a model kind 'gpt5', which this version cannot build"),
    "a layer that is not there": (layers("nowhere"), "packs a layer 'nowhere' that the model does not have"),
    "a layer that is none": (layers("model.norm"), "packs a layer 'model.norm' that the model does not have"),
    "a layer twice as large": (layer(shape=[192, 64]), "packed as (192, 64), the model has (96, 64)"),
    "a layer of huge shape": (layer(shape=[2**40, 2**40]), "the model has (96, 64)"),
    "a layer of three axes": (layer(shape=[96, 8, 8]), "packed as (96, 8, 8), the model has (96, 64)"),
    "another module": (layer(module="Embedding"), "packed as a Embedding, the model has a Linear there"),
    "another quantizer": (layer(terms=[{**INT4, "spec": "int3 g32"}]), "6144 codes of 3 bits take 2304 bytes"),
    "a quantizer that is none": (layer(terms=[{**INT4, "spec": "nvfp5"}]), "no quantizer or format is called"),
    "another kind of term": (layer(terms=[{"kind": "low rank"}]), "term 0 is 'low rank' and its parts are"),
    "a term more": (layer(terms=[INT4, {"kind": "rows"}]), "term 1 is 'rows' and its parts are []"),
    "activations that are none": (layer(activations="int9"), "cannot be read: no quantizer or format is called 'int9'"),
    "activations of another kind": (layer(activations=[8]), f"the layer '{LAYER}' is described by"),
    "an unknown dtype": (layer(dtype="int5"), "its description in the manifest cannot be read"),
    "a part less": (lambda c: c["tensors"].pop(CODES), "name different tensors, for instance '" + CODES),
    "a part of another name": (lambda c: c["tensors"].update(x=c["tensors"].pop(CODES)), "name different tensors"),
    "a tensor in another file": (codes(file=shard_name(3)), "name different tensors"),
    "a file that is not there": (codes(file=shard_name(9)), "name different tensors"),
    "another shape": (codes(shape=[96, 32]), "is torch.uint8 (3072,), the manifest says uint8 (96, 32)"),
    "a huge shape": (codes(shape=[2**62]), "is torch.uint8 (3072,), the manifest says uint8"),
    "another stored dtype": (codes(stored="int8"), "is torch.uint8 (3072,), the manifest says int8"),
    "another dtype": (codes(dtype="float32"), "take 3072 bytes (uint8), got 3072 of torch.float32"),
    "a path outside": (codes(file="../out/" + shard_name(2)), "which is no safetensors file of this folder"),
    "a tie to nothing": (tied("lm_head.weight", "nothing"), "the checkpoint has no tensor 'nothing'"),
    "a tie to another shape": (tied("lm_head.weight"), "'lm_head.weight' is (64,), the model expects (256, 64)"),
    "a tie of nothing": (tied("nowhere.weight"), "has a tensor 'nowhere.weight' that the model does not have"),
    "a tie of no tensor": (tied("model.layers"), "'model.layers' is (64,), the model expects nothing"),
}


@pytest.mark.parametrize(("change", "message"), FORGED.values(), ids=FORGED)
def test_a_forged_manifest(damaged, change, message):
    edit(damaged, change)
    assert message in refused(damaged)


def rewrite_tensor(folder, name, tensor, **changes):
    """Put another tensor into a shard and its digest into the manifest."""

    def change(content):
        entry = content["tensors"].setdefault(name, {"file": shard_name(1)})
        path = folder / entry["file"]
        save_file(load_file(path) | {name: tensor}, path)
        entry.update(
            {"shape": list(tensor.shape), "stored": str(tensor.dtype)[6:], "dtype": str(tensor.dtype)[6:], "digest": digest(tensor)}
        )
        content.update(changes)

    edit(folder, change)


def test_a_code_that_the_format_does_not_have(damaged):
    name = "model.embed_tokens.weight.codes"
    rewrite_tensor(damaged, name, torch.full_like(load_file(damaged / read_manifest(damaged).tensors[name].file)[name], 255))
    assert refused(damaged) == "layer model.embed_tokens: the part 'codes' holds code 3, ternary_element has 3 codes"


def test_a_part_more(damaged):
    rewrite_tensor(damaged, "model.layers.1.mlp.up_proj.weight.more", torch.zeros(2))
    assert refused(damaged) == "layer model.layers.1.mlp.up_proj: the parts ['more'] belong to none of its terms"


def test_a_tensor_more(damaged):
    rewrite_tensor(damaged, "model.layers.7.norm", torch.zeros(2))
    assert refused(damaged) == "the checkpoint has a tensor 'model.layers.7.norm' that the model does not have"


def test_a_tensor_of_another_shape(damaged):
    rewrite_tensor(damaged, "model.norm.weight", torch.zeros(65))
    assert refused(damaged) == "'model.norm.weight' is (65,), the model expects (64,)"


def test_a_tensor_less(damaged):
    def change(content):
        entry = content["tensors"].pop("model.norm.weight")
        path = damaged / entry["file"]
        tensors = load_file(path)
        del tensors["model.norm.weight"]
        save_file(tensors, path)

    edit(damaged, change)
    assert refused(damaged) == "the checkpoint lacks 1 tensors, the first is 'model.norm.weight'"


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_an_error_or_changes_nothing(written, tmp_path, data):
    """Only white space in JSON may change unnoticed."""
    source, expected = written
    folder = tmp_path / "flipped"
    if not folder.exists():
        shutil.copytree(source, folder)
    file = folder / data.draw(st.sampled_from(sorted(p.name for p in source.iterdir())))
    original = (source / file.name).read_bytes()
    end = len(original) if file.suffix != ".safetensors" or data.draw(st.booleans()) else 2000  # headers are rare among the bytes
    place = data.draw(st.integers(0, end - 1))
    flip = data.draw(st.integers(1, 255))
    file.write_bytes(original[:place] + bytes([original[place] ^ flip]) + original[place + 1 :])
    try:
        outcome = logits(load(folder))
    except LowbitError as error:
        outcome = error
    file.write_bytes(original)
    if isinstance(outcome, LowbitError):
        assert type(outcome) is CheckpointError
        assert "\n" not in str(outcome)
    else:
        assert torch.equal(outcome, expected)


# ---- opening


def test_open_model_tells_checkpoints_from_other_folders(damaged, llama_folder, written, monkeypatch):
    assert torch.equal(logits(open_model(str(damaged))), written[1])
    assert open_model(str(llama_folder())).kind == "huggingface"
    monkeypatch.chdir(damaged.parent)
    damaged.rename(damaged.parent / "builtin")
    assert open_model("builtin").name == "builtin"
    assert open_model("./builtin").name == "./builtin"


def test_a_checkpoint_has_its_own_dtypes(damaged):
    with pytest.raises(ModelError, match="is a checkpoint, which keeps the dtypes it was written with; leave out the dtype"):
        open_model(str(damaged), dtype="bfloat16")


def test_a_device_that_is_not_there(damaged):
    for call in (lambda: open_model(str(damaged), "cuda:77"), lambda: load(damaged, "cuda:77")):
        with pytest.raises(ModelError, match="the device 'cuda:77' cannot be used"):
            call()


def test_an_empty_folder_and_none(tmp_path):
    with pytest.raises(CheckpointError, match="holds no lowbit.json"):
        open_model(str(tmp_path))
    with pytest.raises(CheckpointError, match="there is no folder"):
        load(tmp_path / "nowhere")


def test_notes_travel(llama_folder, tmp_path):
    model = open_model(str(llama_folder()))
    model.notes = ("its weights come from somewhere",)
    save(model, tmp_path / "out")
    assert load(tmp_path / "out").notes == ("its weights come from somewhere",)
