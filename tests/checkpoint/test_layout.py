"""The manifest: it reads back, adds up, notices every change; 16-bit narrowing is exact."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowbit.checkpoint.layout import (
    LAYOUT,
    MANIFEST,
    Manifest,
    StoredTensor,
    checksum,
    digest,
    file_digests,
    narrowed,
    read_manifest,
    shard_name,
)
from lowbit.errors import CheckpointError


def stored(**changes):
    return StoredTensor(
        **({"file": "model-00001.safetensors", "shape": (4, 3), "stored": "bfloat16", "dtype": "float32", "digest": "00"} | changes)
    )


@pytest.fixture
def manifest():
    layer = {"module": "Linear", "shape": [4, 6], "terms": [{"kind": "quantized", "spec": "int8"}], "activations": None}
    tensors = {
        "norm": stored(),
        "up.weight.codes": stored(shape=(24,), stored="uint8"),
        "up.weight.scale.codes": stored(shape=(4,), stored="int16"),
    }
    return Manifest(
        "builtin",
        "ä model",
        {"weights": "int8"},
        {"up": layer},
        tensors,
        {"head": "norm"},
        {"config.json": "11"},
        {"torch": "2"},
        ["a note"],
    )


def rewrite(folder, **changes):
    """Change the manifest and its checksum with it, as somebody would who means it."""
    content = json.loads((folder / MANIFEST).read_text())
    content.pop("checksum")
    content |= changes
    (folder / MANIFEST).write_text(json.dumps({**content, "checksum": checksum(content)}))


def test_it_reads_back(manifest, tmp_path):
    (tmp_path / MANIFEST).write_text(manifest.text(), encoding="utf-8")
    assert read_manifest(tmp_path) == manifest
    assert json.loads(manifest.text())["layout"] == LAYOUT


def test_bytes_are_those_of_the_stored_dtypes(manifest):
    assert manifest.nbytes == 4 * 3 * 2 + 24 + 4 * 2
    assert manifest.layer_nbytes("up") == 24 + 4 * 2


def test_the_digest_is_of_names_and_numbers_not_of_their_order_or_file(manifest):
    before = manifest.digest
    manifest.tensors = dict(reversed(manifest.tensors.items()))
    manifest.tensors["norm"] = stored(file="model-00002.safetensors")
    assert manifest.digest == before
    manifest.tensors["norm"] = stored(digest="01")
    changed = manifest.digest
    assert changed != before
    manifest.tensors["morn"] = manifest.tensors.pop("norm")
    assert manifest.digest not in (before, changed)


def test_the_checksum_does_not_depend_on_the_order_of_keys():
    assert checksum({"a": 1, "b": {"c": [2.5, None], "d": "ä"}}) == checksum({"b": {"d": "ä", "c": [2.5, None]}, "a": 1})
    assert checksum({"a": 1}) != checksum({"a": "1"})


def test_shards_are_not_named_as_hugging_faces():
    assert shard_name(1) == "model-00001.safetensors"
    assert shard_name(123456) == "model-123456.safetensors"


def test_digests_of_tensors_see_bytes():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert digest(x) == digest(x.clone()) == digest(x.T.contiguous().T)
    assert len({digest(x), digest(x.T), digest(-x), digest(x + 2**-22)}) == 4
    assert digest(torch.tensor(0.0)) != digest(torch.tensor(-0.0))
    assert digest(torch.zeros(0)) == digest(torch.zeros(0, 4))
    assert digest(x.bfloat16()) == digest(x.bfloat16().view(torch.uint8))


def test_digests_of_files_are_of_those_that_decide_numbers(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("hello")
    assert list(file_digests(tmp_path)) == ["config.json"]
    before = file_digests(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    assert file_digests(tmp_path) != before


@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_narrowing_loses_no_bit(numbers):
    x = torch.tensor(numbers, dtype=torch.float32)
    assert torch.equal(narrowed(x).float().view(torch.int32), x.view(torch.int32))


@given(st.lists(st.floats(width=16, allow_nan=False), min_size=1, max_size=8))
def test_numbers_of_16_bits_are_narrowed(numbers):
    assert narrowed(torch.tensor(numbers, dtype=torch.float16).float()).dtype in (torch.float16, torch.bfloat16)


@pytest.mark.parametrize(
    "numbers, dtype",
    [
        ([1.0, -0.0, 2.0**100], torch.bfloat16),
        ([1.0 + 2**-9], torch.float16),
        ([2.0**-24], torch.bfloat16),
        ([1.0 + 2**-9, 2.0**100], torch.float32),
        ([0.1], torch.float32),
        ([math.inf, -math.inf], torch.bfloat16),
        ([math.nan], torch.float32),
    ],
)
def test_narrowing_takes_bfloat16_where_it_can_then_float16(numbers, dtype):
    assert narrowed(torch.tensor(numbers)).dtype == dtype


def test_only_float32_is_narrowed():
    for x in (torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.int32), torch.ones(3, dtype=torch.float16)):
        assert narrowed(x) is x


def test_no_folder_and_no_manifest_are_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no lowbit.json: it is no lowbit checkpoint, or its writing was cut off"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "cannot be read as JSON"),
        (b'{"layout": 1, ', "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[" * 100000, "cannot be read as JSON"),
        (b"[1]", "is not of lowbit: it names no layout"),
        (b'{"weight_map": {}}', "is not of lowbit: it names no layout"),
        (b'{"layout": 2}', "has layout 2; this version of lowbit reads layout 1"),
        (b'{"layout": "1"}', "has layout '1'; this version of lowbit reads layout 1"),
        (b'{"layout": 1, "kind": "builtin"}', "has been changed: its checksum"),
    ],
)
def test_a_foreign_manifest_is_named_in_one_line(tmp_path, content, message):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_every_letter_counts(manifest, tmp_path):
    text = manifest.text()
    for word in ("builtin", "int8", "norm", "\n    4", "a note", "model-00001"):
        assert text.count(word)
        (tmp_path / MANIFEST).write_text(text.replace(word, word[:-1] + chr(ord(word[-1]) + 1)))
        with pytest.raises(CheckpointError, match="has been changed: its checksum is not that of its content; copy it again"):
            read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"tensors": {"x": vars(stored(file="../../etc/passwd"))}},
            r"lies in '../../etc/passwd', which is no safetensors file of this folder",
        ),
        ({"tensors": {"x": vars(stored(file="/model.safetensors"))}}, "is no safetensors file of this folder"),
        ({"tensors": {"x": vars(stored(file="sub/model.safetensors"))}}, "is no safetensors file of this folder"),
        ({"tensors": {"x": vars(stored(file="model.bin"))}}, "is no safetensors file of this folder"),
        ({"tensors": {"x": vars(stored(stored="float8"))}}, "has the dtype 'float8', read as 'float32'; known are float32"),
        ({"tensors": {"x": vars(stored(dtype=["float32"]))}}, "damaged or foreign"),
        ({"tensors": {"x": vars(stored(shape=(-1, 3)))}}, r"has the shape \(-1, 3\)"),
        ({"tensors": {"x": vars(stored(shape="12"))}}, "has the shape"),
        ({"tensors": {"x": vars(stored(shape=12))}}, "damaged or foreign"),
        ({"tensors": {"x": vars(stored(file=7))}}, "damaged or foreign"),
        ({"tensors": {"x": {"file": "a.safetensors"}}}, "damaged or foreign"),
        ({"tensors": [1]}, "damaged or foreign"),
        ({"layers": {"up": {"module": "Linear"}}}, "damaged or foreign"),
        ({"layers": {"up": {"module": "Linear", "shape": [4, 6], "terms": []}}}, "the layer 'up' is described by"),
        ({"layers": {"up": {"module": "Linear", "shape": [4, "6"], "terms": [{"kind": "quantized"}]}}}, "the layer 'up' is described by"),
        ({"layers": {"up": {"module": 3, "shape": [4, 6], "terms": [{"kind": "quantized"}]}}}, "the layer 'up' is described by"),
        (
            {"layers": {"up": {"module": "Linear", "shape": [4, 6], "terms": [{"kind": "quantized", "spec": 4}]}}},
            "the layer 'up' is described by",
        ),
        ({"layers": ["up"]}, "damaged or foreign"),
        ({"tied": ["a"]}, "is no table"),
        ({"tied": {"a": 3}}, "is no text"),
        ({"notes": [3]}, "is no text"),
        ({"recipe": "nvfp4"}, "is no table"),
        ({"files": {"../config.json": "00"}}, "config.json, tokenizer.json.* can have one"),
        ({"kind": 3}, "is no text"),
        ({"unheard_of": 1}, "unexpected keyword argument 'unheard_of'"),
    ],
)
def test_an_entry_that_cannot_be_is_named_in_one_line(manifest, tmp_path, change, message):
    (tmp_path / MANIFEST).write_text(manifest.text(), encoding="utf-8")
    rewrite(tmp_path, **change)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_shape_beyond_all_memory_is_only_a_number(manifest, tmp_path):
    (tmp_path / MANIFEST).write_text(manifest.text(), encoding="utf-8")
    rewrite(tmp_path, tensors={"x": vars(stored(shape=(10**15, 10**15)))}, layers={})
    assert read_manifest(tmp_path).nbytes == 2 * 10**30
