"""lowbit kernels: what runs for each layer, and the reason where it is torch."""

import pytest
from torch import nn

import lowbit
from lowbit.cli.kernels import route
from lowbit.kernels.op import extension

pytestmark = pytest.mark.skipif(extension("lowbit._cpu") is None, reason="lowbit._cpu was not built")


def cells(out, first):
    """The row of the table whose second cell is ``first``."""
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    return next(r for r in rows if r[1] == first)


@pytest.mark.parametrize("spec", ["nvfp4", "int4 g32", "mxfp4", "nf4_single", "ternary", "hif4", "table(-1;0;0.5;1) g16"])
def test_a_shape_says_which_kernel(command, spec):
    done = command("kernels", "96x128", "--weights", spec)
    assert done.code == 0 and "96x128" in done.out
    assert cells(done.out, "")[4:6] == ["qlinear", ""]


def test_many_rows_have_kernels_of_their_own(command):
    module, shape = extension("lowbit._cpu"), ("kernels", "96x128", "--weights", "int4 g32")
    assert "many rows of inputs: qlinear: panels of float32" in command(*shape).out
    integers = "AMX tiles of int8" if module.target() == "amx" else "panels of int8"
    assert f"many rows of inputs: qlinear_int8: {integers}" in command(*shape, "--activations", "int8 scale=float32").out
    told, known = command("kernels", "96x128").out, {"scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"}
    assert all(f"not used: {name}: " in told for name in known - set(module.targets()))


@pytest.mark.parametrize(
    "options, kernel, reason",
    [
        (("--weights", "e2m1 g32 sign_split"), "torch", "qlinear: negative numbers have"),
        (("--weights", "int8 g32", "--activations", "int8 scale=float32"), "qlinear_int8", ""),
        (("--weights", "int8 g32", "--activations", "int8"), "qlinear", "inputs in int8, not"),
        (("--weights", "nf4_single", "--activations", "int8 scale=float32"), "qlinear", "qlinear_int8: the"),
    ],
)
def test_what_refused_is_said(command, options, kernel, reason):
    row = cells(command("kernels", "96x128", *options).out, "")
    assert row[4] == kernel and row[5].startswith(reason)


def test_a_model_is_told_layer_by_layer(command, tmp_path):
    model = lowbit.quantize(lowbit.open_model("builtin"), "int4 g32", override={"*.layers.1.mlp.up_proj": "e2m1 g32 sign_split"})
    lowbit.save(model, tmp_path / "q")
    done = command("kernels", str(tmp_path / "q"))
    assert cells(done.out, "model.layers.0.self_attn.q_proj")[4] == "qlinear"
    assert cells(done.out, "model.layers.1.mlp.up_proj")[:1] == ["1"]
    assert "generation: module by module: up_proj: qlinear: negative numbers have scales of their own" in done.out


def test_a_model_that_is_not_packed_says_so_or_is_imagined(command):
    assert "no layer is packed; --weights SPEC says what would run" in command("kernels", "builtin").out
    assert cells(command("kernels", "builtin", "--weights", "nvfp4").out, "model.layers.0.self_attn.q_proj")[4] == "qlinear"


def test_embeddings_are_gathered_and_convolutions_unfolded_or_say_why_not():
    table = lowbit.quantize(nn.Sequential(nn.Embedding(8, 32)), "int4 g32", only=["Embedding"])[0]
    assert route(table) == ("gather", "")
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8))
    image, depthwise = lowbit.quantize(network, "int4 ragged g32")
    assert route(image).kernel == "qlinear on patches"
    assert route(depthwise) == ("torch", "qlinear: its groups have 1 output, the kernel takes 16 at a time")


def test_a_model_that_does_not_exist_is_named(command):
    done = command("kernels", "nowhere/at/all")
    assert done.code == 2 and "there is no model at 'nowhere/at/all'" in done.err
