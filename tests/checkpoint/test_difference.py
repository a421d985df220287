"""Two checkpoints of the built-in model: the same bytes, other codes, another format."""

import lowbit
from lowbit.checkpoint.difference import differences


def checkpoint(folder, weights, **options):
    model = lowbit.open_model("builtin")
    lowbit.save(lowbit.quantize(model, weights, only=["model.layers.0.mlp.*"], **options), folder)
    return folder


def test_equal_checkpoints_do_not_differ(tmp_path):
    assert list(differences(checkpoint(tmp_path / "a", "int4 g64"), checkpoint(tmp_path / "b", "int4 g64"))) == []


def test_other_codes_are_counted(tmp_path):
    a = checkpoint(tmp_path / "a", "int4 g64")
    b = checkpoint(tmp_path / "b", "int4 g64", solver="gptq", data=["builtin"], sequences=2, length=128)
    found = {d.name: d for d in differences(a, b)}
    assert set(found) == {f"model.layers.0.mlp.{n}_proj" for n in ("gate", "up", "down")}
    for each in found.values():
        assert 0 < each.codes < 0.9
        assert 0 < each.relative < 0.1
        assert each.largest > 0


def test_another_format_is_named(tmp_path):
    found = next(differences(checkpoint(tmp_path / "a", "int4 g64"), checkpoint(tmp_path / "b", "nvfp4")))
    assert found.what == "int4 g64 against nvfp4"
    assert found.codes is None


def test_a_layer_packed_in_one_only_is_named(tmp_path):
    a = checkpoint(tmp_path / "a", "int4 g64")
    model = lowbit.open_model("builtin")
    lowbit.save(lowbit.quantize(model, "int4 g64", only=["model.layers.0.mlp.up_proj"]), tmp_path / "b")
    found = [d for d in differences(a, tmp_path / "b") if d.what.startswith("packed only")]
    assert sorted(d.name.rpartition(".")[2] for d in found) == ["down_proj", "gate_proj"]
