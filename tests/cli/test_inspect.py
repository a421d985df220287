"""lowbit inspect: what a checkpoint says it holds, and with --verify whether it does."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

import lowbit
from lowbit.checkpoint.layout import MANIFEST, read_manifest, shard_name


@pytest.fixture(scope="module")
def written(llama_folder, tmp_path_factory):
    model = lowbit.open_model(str(llama_folder(tied=True)))
    model.notes = ("it was rounded before",)
    lowbit.quantize(model, "int4 g32", override={"*.down_proj": "nvfp4"}, activations="mxfp8")
    folder = tmp_path_factory.mktemp("checkpoint") / "[bold] out"
    lowbit.save(model, folder, recipe={"weights": "int4 g32", "solver": "rtn"})
    return folder


def test_it_shows_layers_bits_and_bytes(command, written):
    done = command("inspect", str(written))
    assert (done.code, done.err) == (0, "")
    (row,) = [line for line in done.out.splitlines() if "model.layers.1.mlp.up_proj" in line]
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells == ["model.layers.1.mlp.up_proj", "Linear", "96x64", "int4 g32", "4.500", str(96 * 64 * 9 // 16)]
    assert "recipe: weights int4 g32, solver rtn" in done.out
    assert "note: it was rounded before" in done.out
    assert "tied: {'lm_head.weight': 'model.embed_tokens.weight'}" in done.out
    assert f"digest {read_manifest(written).digest}" in done.out
    assert f"in all {read_manifest(written).nbytes / 1e6:.2f} MB" in done.out


def test_json_is_the_manifest_with_its_digest_and_bytes(command, written):
    done = command("inspect", str(written), "--json")
    found, manifest = json.loads(done.out), read_manifest(written)
    assert found["digest"] == manifest.digest
    assert found["nbytes"] == manifest.nbytes
    assert found["layers"] == manifest.layers
    assert {k: v for k, v in found.items() if k not in ("digest", "nbytes")} == json.loads((written / MANIFEST).read_text())


def test_verify_reads_every_tensor(command, written):
    done = command("inspect", str(written), "--verify")
    assert done.code == 0
    assert f"all {len(read_manifest(written).tensors)} tensors of {written} match their digests" in done.out


@pytest.fixture
def damaged(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "out"))


def refused(done, message):
    assert done.code == 2
    assert message in done.err
    assert done.err.startswith("lowbit: ")
    assert done.err.count("\n") == 1


def test_damage_is_found_only_by_looking(command, damaged):
    """Without --verify the tensors are not read, with it the first that is wrong is named."""
    path = damaged / shard_name(1)
    name = "model.layers.0.mlp.up_proj.weight.codes"
    raw, data = load_file(path)[name].numpy().tobytes(), path.read_bytes()
    place = data.index(raw) + 100
    path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    assert command("inspect", str(damaged)).code == 0
    refused(command("inspect", str(damaged), "--verify"), f"'{name}' in model-00001.safetensors has been changed: its digest is not")


def test_a_truncated_shard_and_a_missing_one(command, damaged):
    path = damaged / shard_name(1)
    path.write_bytes(path.read_bytes()[:-1])
    refused(command("inspect", str(damaged), "--verify"), "model-00001.safetensors' is missing, truncated or damaged (")
    path.unlink()
    refused(command("inspect", str(damaged), "--verify"), "model-00001.safetensors' is missing, truncated or damaged (")


def test_a_changed_configuration_or_manifest(command, damaged):
    path = damaged / "config.json"
    path.write_text(path.read_text().replace("10000", "20000"))
    refused(command("inspect", str(damaged), "--verify"), "config.json' is changed: its digest is not that of the manifest; copy it again")
    path = damaged / MANIFEST
    path.write_text(path.read_text().replace("nvfp4", "mxfp4"))
    refused(command("inspect", str(damaged)), "lowbit.json' has been changed: its checksum is not that of its content; copy it again")


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "out' holds no lowbit.json: it is no lowbit checkpoint, or its writing was cut off"),
        ("{", "lowbit.json' is damaged, it cannot be read as JSON"),
        ("{}", "lowbit.json' is not of lowbit: it names no layout"),
        ('{"layout": 9}', "lowbit.json' has layout 9; this version of lowbit reads layout 1: write it again from the original"),
    ],
)
def test_what_is_no_checkpoint(command, damaged, content, message):
    (damaged / MANIFEST).unlink()
    if content is not None:
        (damaged / MANIFEST).write_text(content)
    refused(command("inspect", str(damaged)), message)


def test_a_folder_that_is_not_there(command, tmp_path):
    refused(command("inspect", str(tmp_path / "nowhere")), "there is no folder '")


def test_a_comparison_with_verify_reads_what_it_would_believe(command, written, damaged):
    shard = damaged / shard_name(1)
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(data)
    believed = command("inspect", str(written), "--compare", str(damaged))
    assert believed.code == 0
    assert "nothing differs by the recorded digests (--verify reads every tensor)" in believed.out
    refused(
        command("inspect", str(written), "--compare", str(damaged), "--verify"), "has been changed: its digest is not that of the manifest"
    )
    both = command("inspect", str(written), "--compare", str(written), "--verify")
    assert both.out.count("match their digests") == 2
    assert f"nothing differs; digest {read_manifest(written).digest}" in both.out
