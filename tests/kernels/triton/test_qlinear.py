"""Products with packed codes against float64, outputs filled with NaN; what is refused; layers and torch.compile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lowbit.errors import ShapeError
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.kernels.op import QLINEAR, backend
from lowbit.kernels.triton import linear_layout
from lowbit.nn.linear import Linear
from lowbit.quantizers.linear_lowering import linear_spec
from lowbit.quantizers.spec import quantizer

#: rounding of the result, and of weights where scales multiply those
HALF, WEIGHT = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}, 2.0**-8

SPECS = ("int4 g128", "int4 g64 asym", "nvfp4", "mxfp4", "nf4_element g64", "int8 row", "fp8 row", "mxfp8", "int3 g128", "int4 g32")


def weight_of(spec: str, rows: int, columns: int, device: str = "cpu") -> tuple[linear_layout.PackedLinear, Tensor]:
    W = torch.randn(rows, columns, generator=torch.Generator().manual_seed(2)).to(device)
    told = linear_spec(quantizer(spec).quantize(W))
    assert isinstance(told, LinearSpec)
    return linear_layout.run(told), told.dequantize().double()


def assert_close(y: Tensor, x: Tensor, W: Tensor, bias: Tensor) -> None:
    """Every number within the rounding of the result and of the weights: |error| <= 2 u |y| + 2 u (|x| |W|)."""
    expected = x.double() @ W.T + bias.double()
    slack = 2 * HALF[y.dtype] * expected.abs() + 2 * WEIGHT * (x.double().abs() @ W.abs().T)
    if y.device.type == "cpu":
        slack = 2 * slack  # the interpreter cuts numbers of bfloat16 instead of rounding them
    assert bool(((y.double() - expected).abs() <= slack).all()), float((y.double() - expected).abs().max())


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("m", [1, 11, 40])
def test_products_of_few_and_of_more_rows(spec: str, m: int, interpreter: None) -> None:
    kernel = QLINEAR.kernel(torch.zeros(1, 256).bfloat16(), weight_of(spec, 40, 256)[0])
    assert kernel is not None and kernel.__name__ == "lowbit.kernels.triton.qlinear"
    packed, W = weight_of(spec, 40, 256)
    x = torch.randn(m, 256, generator=torch.Generator().manual_seed(3)).bfloat16()
    bias, y = torch.randn(40), torch.full((m, 40), torch.nan, dtype=torch.bfloat16)
    assert kernel.run(x, packed, bias, y) is y
    assert_close(y, x, W, bias)


def test_many_rows_are_multiplied_with_the_numbers(interpreter: None) -> None:
    packed, W = weight_of("int4 g128", 24, 128)
    x, bias = torch.randn(linear_layout.SOME + 1, 128).bfloat16(), torch.zeros(24)
    with backend("triton"):
        kernel = QLINEAR.kernel(x, packed, bias)
    assert kernel is not None
    assert_close(kernel.run(x, packed, bias), x, W, bias)


def test_float16_and_columns_that_do_not_fill_the_warps(interpreter: None) -> None:
    packed, W = weight_of("int4 g64", 33, 320)
    x, bias = torch.randn(3, 320).half(), torch.randn(33)
    kernel = QLINEAR.kernel(x, packed, bias)
    assert kernel is not None
    assert_close(kernel.run(x, packed, bias), x, W, bias)


def test_what_is_refused_says_why(interpreter: None) -> None:
    wide, narrow = weight_of("int4 g128", 16, 128)[0], weight_of("mxfp4", 16, 128)[0]
    for x, packed, reason in (
        (torch.zeros(1, 128), wide, "float32"),
        (torch.zeros(1, 128).half(), narrow, "bfloat16, x is float16"),
        (torch.zeros(1, 128, dtype=torch.bfloat16), "its dense weight is kept", "kept"),
    ):
        assert reason in QLINEAR.plan(x, packed)[1]["triton"]
    kernel = QLINEAR.kernel(torch.zeros(1, 128).bfloat16(), wide)
    assert kernel is not None
    with pytest.raises(ShapeError, match="needs 128 columns"):
        kernel.run(torch.zeros(1, 64).bfloat16(), wide)


def test_a_layer_runs_on_it_and_keeps_its_state(interpreter: None) -> None:
    layer = Linear.from_float(nn.Linear(128, 24), "int4 g128")
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    x = torch.randn(2, 128).bfloat16()
    y = layer(x)
    assert isinstance(layer.weight.layout(), linear_layout.PackedLinear)
    assert_close(y, x, layer.weight.unpacked().dequantize().double(), layer.bias)
    after = layer.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_a_compiled_layer_has_no_graph_break(interpreter: None) -> None:
    layer = Linear.from_float(nn.Linear(128, 24), "int4 g128")
    x = torch.randn(2, 128).bfloat16()
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), layer(x))


@pytest.mark.gpu
@pytest.mark.parametrize("spec", SPECS)
def test_products_on_a_device(spec: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    for rows, columns in ((200, 1024), (48, 1408)):
        packed, W = weight_of(spec, rows, columns, "cuda")
        for m in (1, 7, 13, 29, 61, 200):
            x, bias = torch.randn(m, columns, device="cuda").bfloat16(), torch.randn(rows, device="cuda")
            y = torch.full((m, rows), torch.nan, device="cuda", dtype=torch.bfloat16)
            kernel = QLINEAR.kernel(x, packed, bias)
            assert kernel is not None
            kernel.run(x, packed, bias, y)
            assert_close(y, x, W, bias)


@pytest.mark.gpu
def test_a_graph_of_a_compiled_layer_replays() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    layer = Linear.from_float(nn.Linear(256, 64), "nvfp4").cuda()
    x = torch.randn(4, 256, device="cuda").bfloat16()
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True)
        expected = compiled(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = compiled(x)
        y.fill_(torch.nan)
        graph.replay()
    assert torch.equal(y, expected)
