"""A file appears whole or not at all; a folder that was not made is not left; a full disk has its one line."""

import errno
import json
import os
import stat

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import lowbit
from lowbit.checkpoint import writing
from lowbit.checkpoint.layout import MANIFEST, Manifest, read_manifest, shard_name
from lowbit.checkpoint.reading import Tensors
from lowbit.checkpoint.writing import Writer, check_file, claim_folder, new_folder, versions, whole, write_shard
from lowbit.errors import OutputError, UnsupportedError
from lowbit.nn.decoder import FusedDecoder
from lowbit.nn.packed import PackedWeight
from lowbit.quantizers.spec import quantizer
from lowbit.quantizers.weight import Weight


def listing(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def writer(tmp_path):
    return Writer(tmp_path, Manifest("builtin", "somewhere", {}), shard_bytes=1000)


# ---- folders


def test_a_folder_is_claimed_with_its_parents(tmp_path):
    claim_folder(tmp_path / "a" / "b")
    claim_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for claim in (lambda: claim_folder(tmp_path), lambda: new_folder(tmp_path).__enter__()):
        with pytest.raises(OutputError, match="is not empty; name another, or empty it"):
            claim()
    assert (tmp_path / "mine").read_text() == "mine"
    claim_folder(tmp_path, resume=True)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file' is a file; name a folder for the checkpoint"):
        claim_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be made: Not a directory"):
        claim_folder(tmp_path / "file" / "inside")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_block_leaves_nothing(tmp_path, error):
    with pytest.raises(error), new_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "half").write_text("half")
        (tmp_path / "a" / "b" / "deep").mkdir()
        (tmp_path / "a" / "b" / "deep" / "er").write_text("half")
        raise error
    assert listing(tmp_path) == []


def test_a_failed_block_empties_a_folder_that_was_there(tmp_path):
    with pytest.raises(ValueError, match="it"), new_folder(tmp_path):
        (tmp_path / "half").write_text("half")
        raise ValueError("it")
    assert tmp_path.is_dir()
    assert listing(tmp_path) == []


def test_a_good_block_keeps_everything(tmp_path):
    with new_folder(tmp_path / "a"):
        (tmp_path / "a" / "done").write_text("done")
    assert listing(tmp_path / "a") == ["done"]


def test_a_place_where_no_file_can_be_is_found_before_the_work(tmp_path):
    check_file(tmp_path / "new.json")
    with pytest.raises(OutputError, match="is a folder; name a file"):
        check_file(tmp_path)
    with pytest.raises(OutputError, match=r"cannot be written: there is no folder '.*nowhere'"):
        check_file(tmp_path / "nowhere" / "new.json")


# ---- whole files


def test_a_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert listing(tmp_path) == ["f"]


def test_a_file_has_the_rights_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        with whole(tmp_path / "f") as temporary:
            temporary.write_text("x")
            temporary.chmod(0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(type(error)), whole(path) as temporary:
        temporary.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["f"]


@pytest.mark.parametrize(
    "error, message",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be written: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written: Permission denied"),
    ],
)
def test_what_the_system_refuses_is_named(tmp_path, error, message):
    with pytest.raises(OutputError, match=message), whole(tmp_path / "f") as temporary:
        temporary.write_text("ne")
        raise error
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_ends_a_shard_in_one_line(writer, tmp_path, monkeypatch, error):
    """The first shard is written; the second finds the disk full after half of its bytes."""

    def full(tensors, path):
        path.write_bytes(b"half a shard")
        raise error

    writer.add("a", torch.full((1000,), 0.1))
    monkeypatch.setattr(writing, "save_file", full)
    with pytest.raises(OutputError, match=r"model-00002.safetensors' cannot be written: the disk is full") as caught:
        writer.add("b", torch.full((1000,), 0.2))
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == ["model-00001.safetensors"]


def test_another_failure_of_safetensors_keeps_its_words(tmp_path, monkeypatch):
    def broken(tensors, path):
        path.write_bytes(b"")
        raise SafetensorError("something else")

    monkeypatch.setattr(writing, "save_file", broken)
    with pytest.raises(OutputError, match="something else"):
        write_shard(tmp_path / "x.safetensors", {"a": torch.zeros(1)})


# ---- the writer


def test_shards_are_filled_in_order_and_found_again(writer, tmp_path):
    numbers = {f"t{i}": torch.randn(100, generator=torch.Generator().manual_seed(i)) for i in range(7)}
    for name, tensor in numbers.items():
        writer.add(name, tensor)
    manifest = writer.finish()
    assert [manifest.tensors[f"t{i}"].file for i in range(7)] == [shard_name(i) for i in (1, 1, 1, 2, 2, 2, 3)]
    assert listing(tmp_path) == [MANIFEST, shard_name(1), shard_name(2), shard_name(3)]
    tensors = Tensors(tmp_path, read_manifest(tmp_path))
    assert all(torch.equal(tensors[n], t) for n, t in numbers.items())


def test_tensors_are_stored_in_16_bits_where_that_is_exact(writer, tmp_path):
    given = {"coarse": torch.tensor([1.0, 0.5]), "fine": torch.tensor([0.1]), "half": torch.tensor([1 + 2**-9]), "count": torch.arange(3)}
    for name, tensor in given.items():
        writer.add(name, tensor)
    manifest = writer.finish()
    assert {n: (t.stored, t.dtype) for n, t in manifest.tensors.items()} == {
        "coarse": ("bfloat16", "float32"), "fine": ("float32", "float32"), "half": ("float16", "float32"), "count": ("int64", "int64"),
    }  # fmt: skip
    tensors = Tensors(tmp_path, manifest)
    assert all(torch.equal(tensors[n], t) and tensors[n].dtype == t.dtype for n, t in given.items())
    assert manifest.nbytes == 2 * 2 + 4 + 2 + 3 * 8 == sum(t.nbytes for t in load_file(tmp_path / shard_name(1)).values())


def test_a_tensor_added_twice_is_stored_once(writer, tmp_path):
    table = torch.randn(4, 4)
    writer.add("table", table)
    writer.add("head", table)
    writer.add("equal", table.clone())
    writer.add("part", table[:2])
    assert writer.finish().tied == {"head": "table"}
    assert sorted(load_file(tmp_path / shard_name(1))) == ["equal", "part", "table"]


def test_memory_that_is_used_again_is_no_tie(writer, tmp_path):
    """Tensors that are read one after the other come to lie in the same place; their numbers differ."""
    for i in range(8):
        writer.add(f"t{i}", torch.full((64,), float(i)))
    manifest = writer.finish()
    assert manifest.tied == {}
    tensors = Tensors(tmp_path, manifest)
    assert [tensors[f"t{i}"][0].item() for i in range(8)] == list(range(8))


def test_empty_tensors_are_not_tied(writer):
    writer.add("a", torch.zeros(0))
    writer.add("b", torch.zeros(0))
    assert writer.finish().tied == {}


def test_a_tensor_is_stored_as_it_was_when_it_was_added(writer, tmp_path):
    x = torch.ones(4)
    writer.add("x", x)
    x.zero_()
    manifest = writer.finish()
    assert torch.equal(Tensors(tmp_path, manifest)["x"], torch.ones(4))


def test_a_view_is_stored_as_the_numbers_that_it_shows(writer, tmp_path):
    x = torch.arange(12.0).reshape(3, 4)
    writer.add("turned", x.T)
    assert torch.equal(Tensors(tmp_path, writer.finish())["turned"], x.T)


def test_a_packed_weight_has_its_parts_under_its_name(writer, tmp_path):
    scheme = quantizer("nvfp4")
    weight = PackedWeight.of(Weight((scheme.quantize(torch.randn(8, 32)),), (scheme,)))
    writer.add_packed("layer", "Linear", weight, "int8", remark="kept")
    manifest = writer.finish()
    assert manifest.layers["layer"] == {
        "module": "Linear", "shape": [8, 32], "terms": [{"kind": "quantized", "spec": "nvfp4"}], "activations": "int8", "remark": "kept",
    }  # fmt: skip
    assert sorted(manifest.tensors) == ["layer.weight.codes", "layer.weight.scale.codes", "layer.weight.scale.scale"]
    assert manifest.layer_nbytes("layer") == weight.nbytes == scheme.nbytes((8, 32))
    assert manifest.tensors["layer.weight.scale.scale"].stored == "float32"  # parts are never narrowed


def test_a_dtype_that_could_not_be_read_back_is_refused(writer):
    with pytest.raises(UnsupportedError, match="'x' is complex64, which a checkpoint does not hold; it holds float32, "):
        writer.add("x", torch.zeros(2, dtype=torch.complex64))


def test_the_manifest_says_what_wrote_it(writer):
    manifest = writer.finish()
    assert manifest.versions == versions()
    assert manifest.versions["torch"] == torch.__version__
    assert json.loads(manifest.text())["layout"] == 1


def test_a_tied_embedding_and_output_layer_are_packed_once(llama_folder, tmp_path):
    """In memory, on disk, and in memory again."""
    model = lowbit.open_model(str(llama_folder(tied=True)))
    lowbit.quantize(model, "int4 g32", only=["Linear", "Embedding"], ignore=[])
    head, table = model.module.lm_head, model.module.model.embed_tokens
    assert head.weight is table.weight
    manifest = lowbit.save(model, tmp_path / "q")
    assert manifest.tied["lm_head.weight.codes"] == "model.embed_tokens.weight.codes" or (
        manifest.tied["model.embed_tokens.weight.codes"] == "lm_head.weight.codes"
    )
    again = lowbit.load(tmp_path / "q")
    assert again.module.lm_head.weight is again.module.model.embed_tokens.weight
    ids = torch.arange(7)[None]
    assert torch.equal(again.logits(ids), model.logits(ids))
    assert isinstance(again.fused(), FusedDecoder)
    assert again.generate("hello", 12) == model.generate("hello", 12)
