"""A saved model: its bytes are those of the plan, its digest does not know threads or runs, and a failure leaves nothing."""

import errno

import pytest
import torch
from torch import nn

import lowbit
from lowbit.checkpoint import writing
from lowbit.checkpoint.layout import MANIFEST, read_manifest
from lowbit.errors import OutputError, SpecError, UnsupportedError
from lowbit.models.huggingface import HuggingFace
from lowbit.quantizers.scheme import Scheme
from lowbit.recipes.plan import plan

SPECS = ["nvfp4", "int4 g32 asym", "int4 g32 mse", "nf4", "ternary", "int4 g32 round=stochastic"]


@pytest.fixture
def model(llama_folder):
    return lowbit.open_model(str(llama_folder(tied=True, dtype="bfloat16")))


def listing(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    "options", [{"weights": "nvfp4"}, {"weights": "int8", "only": ["Linear", "Embedding"]}, {"weights": "nf4", "ignore": []}], ids=str
)
def test_its_bytes_are_those_of_the_plan(model, tmp_path, options):
    """As the tensors are read back the plan counts them to the byte; on disk float32 that 16 bits hold takes half."""
    made = plan(model.module, **options)
    manifest = lowbit.save(lowbit.quantize(model, **options), tmp_path / "out")
    assert sum(manifest.layer_nbytes(p.name) for p in made.layers) == made.packed_nbytes
    packed = tuple(f"{p.name}.weight." for p in made.layers)
    rest = {n: t for n, t in manifest.tensors.items() if not n.startswith(packed)}
    assert sum(4 * torch.Size(t.shape).numel() for t in rest.values()) == made.rest_nbytes
    assert {(t.stored, t.dtype) for t in rest.values()} == {("bfloat16", "float32")}  # this model came in bfloat16
    assert manifest.nbytes == made.packed_nbytes + made.rest_nbytes // 2
    files = sum(p.stat().st_size for p in (tmp_path / "out").glob("*.safetensors"))
    assert manifest.nbytes < files < manifest.nbytes + 200 * len(manifest.tensors)


@pytest.mark.parametrize("spec", SPECS)
def test_the_digest_does_not_depend_on_threads_or_runs(llama_folder, tmp_path, spec):
    before, digests = torch.get_num_threads(), []
    try:
        for run, threads in enumerate((1, 2, 2)):
            torch.set_num_threads(threads)
            model = lowbit.quantize(lowbit.open_model(str(llama_folder(hidden_size=128, intermediate_size=256))), spec, seed=5)
            digests.append(lowbit.save(model, tmp_path / str(run)).digest)
    finally:
        torch.set_num_threads(before)
    assert len(set(digests)) == 1


def test_the_whole_manifest_is_the_same_in_two_runs(model, tmp_path):
    lowbit.quantize(model, "int4 g32", override={"*.down_proj": "int8"})
    for name in ("a", "b"):
        lowbit.save(model, tmp_path / name, recipe={"weights": "int4 g32"})
    assert listing(tmp_path / "a") == listing(tmp_path / "b")
    for file in listing(tmp_path / "a"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_digest_does_not_depend_on_the_size_of_shards(model, tmp_path):
    lowbit.quantize(model, "nvfp4")
    sizes = (1 << 30, 30_000, 1)
    digests = [lowbit.save(model, tmp_path / str(size), shard_bytes=size).digest for size in sizes]
    assert len(set(digests)) == 1
    counts = [len(list((tmp_path / str(size)).glob("*.safetensors"))) for size in sizes]
    assert counts[0] == 1 < counts[1] < counts[2] == len(read_manifest(tmp_path / "1").tensors)


def test_what_was_done_is_written(model, tmp_path):
    lowbit.quantize(model, "int4 g32", activations="int8")
    manifest = lowbit.save(model, tmp_path / "out", recipe={"weights": "int4 g32"})
    assert (manifest.recipe, manifest.kind, manifest.source) == ({"weights": "int4 g32"}, "huggingface", model.name)
    layer = manifest.layers["model.layers.0.mlp.up_proj"]
    assert layer == {"module": "Linear", "shape": [96, 64], "terms": [{"kind": "quantized", "spec": "int4 g32"}], "activations": "int8"}
    assert set(listing(tmp_path / "out")) >= {MANIFEST, "config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"}


def test_a_model_quantized_in_steps_is_written_whole(model, tmp_path):
    lowbit.quantize(model, "int4 g32", only=["*.mlp.*"])
    lowbit.quantize(model, "int8", only=["*.self_attn.*"])
    lowbit.save(model, tmp_path / "out")
    again = lowbit.load(tmp_path / "out")
    assert set(read_manifest(tmp_path / "out").layers) == {n for n, m in again.module.named_modules() if type(m) is lowbit.nn.Linear}
    ids = model.encode("def f(x):")[None]
    assert torch.equal(again.logits(ids), model.logits(ids))


def test_a_folder_with_something_in_it_is_refused(model, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(OutputError, match="is not empty; name another, or empty it"):
        lowbit.save(model, tmp_path)
    assert listing(tmp_path) == ["mine"]


def test_a_bare_module_is_refused(tmp_path):
    with pytest.raises(
        UnsupportedError, match=r"save\(\) writes what lowbit.open_model gave, not a Sequential; for other modules keep model.state_dict"
    ):
        lowbit.save(nn.Sequential(nn.Linear(4, 4)), tmp_path / "out")
    assert listing(tmp_path) == []


def test_a_quantizer_without_words_leaves_no_half_checkpoint(model, tmp_path):
    mine = lowbit.TableFormat("mine", tuple(float(i * i) for i in range(-200, 200)))
    lowbit.quantize(model, Scheme(mine, lowbit.quantizer("int8").blocks, lowbit.quantizer("int8").scaling))
    with pytest.raises(SpecError, match="format 'mine' is not registered, so it has no spec string; register it"):
        lowbit.save(model, tmp_path / "out")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("shard", [1, 2, 3])
def test_a_full_disk_leaves_no_half_checkpoint(model, tmp_path, monkeypatch, shard):
    original, count = writing.save_file, iter(range(1, 99))

    def full(tensors, path):
        original(tensors, path)
        if next(count) == shard:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "save_file", full)
    with pytest.raises(OutputError, match=rf"model-0000{shard}.safetensors' cannot be written: the disk is full"):
        lowbit.save(model, tmp_path / "a" / "out", shard_bytes=30_000)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Exception("No space left on device (os error 28)")])
def test_a_disk_that_is_full_at_the_tokenizer_leaves_no_half_checkpoint(model, tmp_path, monkeypatch, error):
    def full(folder):
        raise error

    monkeypatch.setattr(model.tokenizer, "save_pretrained", full)
    with pytest.raises(OutputError, match="out' cannot be written: .*[Nn]o space left"):
        lowbit.save(model, tmp_path / "out")
    assert listing(tmp_path) == []


def test_the_original_can_be_written_too(llama_folder, tmp_path):
    folder = llama_folder(shard="60KB")
    model = lowbit.open_model(str(folder))
    manifest = lowbit.save(model, tmp_path / "out")
    assert manifest.layers == {}
    ids = model.encode("def f(x):")[None]
    assert torch.equal(lowbit.load(tmp_path / "out").logits(ids), HuggingFace.load(str(folder)).logits(ids))
