"""Errors of rounding against textbook figures, numpy and the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lowbit.blocks import Blocks
from lowbit.evaluation import format_error as show
from lowbit.evaluation.format_error import Sums, best_scale, comparison, inverse, quantiles, quantizer_rows
from lowbit.formats.table import TableFormat
from lowbit.quantizers.spec import find_format, quantizer
from lowbit.quantizers.spec import find_format as format_named


def test_gaussian_error_against_numpy() -> None:
    """Absmax int4 in groups of 32, in float64 with numpy's own Gaussian numbers."""
    x = np.random.default_rng(0).standard_normal((4096, 32))
    scale = np.abs(x).max(-1, keepdims=True) / 7
    error = ((np.rint(x / scale) * scale - x) ** 2).sum() / (x**2).sum()
    assert show.format_errors(format_named("int4"))["g32"] == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize(("rule", "published"), [("floor", 0.0132), ("even", 0.0125), ("ceil", 0.0208), ("rceil", 0.0133)])
def test_gaussian_error_of_the_mx_rules(rule: str, published: float) -> None:
    assert show.relative_mse(quantizer(f"mxfp4 {rule}"), show.gaussian()) == pytest.approx(published, rel=0.02)


def test_gaussian_numbers_are_standard_normal() -> None:
    x = show.gaussian().double()
    assert abs(float(x.mean())) < 0.01
    assert float(x.var()) == pytest.approx(1, rel=0.02)
    assert float((x.abs() < 1).double().mean()) == pytest.approx(math.erf(2**-0.5), rel=0.01)


@pytest.mark.parametrize(
    ("distribution", "variance", "median_of_magnitude"),
    [("Gaussian", 1.0, 0.67449), ("Laplace", 2.0, math.log(2)), ("Student-t(5)", 5 / 3, 0.72669)],
)
def test_distributions(distribution: str, variance: float, median_of_magnitude: float) -> None:
    """Their moments and quartiles; of Student-t(5) the upper quartile of any table."""
    x = show.sample(distribution).double()
    assert float(x.square().mean()) == pytest.approx(variance, rel=0.03)
    assert float(x.abs().median()) == pytest.approx(median_of_magnitude, rel=0.01)
    assert float(quantiles(distribution).second[-1]) / show.QUANTILES == pytest.approx(variance, rel=0.02)
    assert np.allclose(inverse(distribution, np.array([0.5, 0.75, 0.25])), [0, median_of_magnitude, -median_of_magnitude], atol=1e-5)


#: J. Max, Quantizing for minimum distortion (1960), table II: least squared error of equally spaced output levels
MAX = {2: 0.3634, 3: 0.1902, 4: 0.1188, 5: 0.08218, 6: 0.06065, 7: 0.04686, 8: 0.03744, 9: 0.03069, 16: 0.01154, 32: 0.003495}


@pytest.mark.parametrize("levels", MAX)
def test_the_best_scale_of_equal_steps_has_the_error_of_the_textbook(levels: int) -> None:
    fmt = TableFormat("equal", tuple(k - (levels - 1) / 2 for k in range(levels)))
    assert best_scale(fmt, quantiles("Gaussian"))[1] == pytest.approx(MAX[levels], rel=0.002)


def test_the_best_binary_scale_is_the_mean_magnitude() -> None:
    """Error 1 - E|x|^2 / E x^2: 1/2 for Laplace, 1 - 2/pi for Gauss."""
    for distribution, error in (("Gaussian", 1 - 2 / math.pi), ("Laplace", 0.5)):
        scale, found = best_scale(find_format("binary_element"), quantiles(distribution))
        assert found == pytest.approx(error, rel=0.002)
        assert scale == pytest.approx(float(np.abs(quantiles(distribution).x).mean()), rel=0.01)


@pytest.mark.parametrize("name", ["float4_e2m1fn", "nf4_element", "posit8_1", "float8_e5m2", "pot4"])
def test_sums_say_what_rounding_every_number_says(name: str) -> None:
    fmt, numbers = find_format(name), quantiles("Laplace")
    for scale in (0.1, 1.0, 1.7):
        y = fmt.decode(fmt.encode(torch.from_numpy(numbers.x / scale))).double().numpy() * scale
        direct = ((y - numbers.x) ** 2).sum() / (numbers.x**2).sum()
        fast = numbers.relative_mse(scale, np.array(fmt.lines[0].values), fmt.cutpoints(dtype=torch.float64).numpy())
        assert fast == pytest.approx(direct, rel=1e-9)


@pytest.mark.parametrize("name", ["float4_e2m1fn", "int4", "posit8_1", "ternary_element", "float8_e4m3fn", "bitmod4_element"])
def test_no_scale_of_a_fine_grid_is_better(name: str) -> None:
    fmt, numbers = find_format(name), quantiles("Student-t(5)")
    least = best_scale(fmt, numbers)[1]
    for line, table in zip(fmt.lines, range(9), strict=False):
        cuts = fmt.cutpoints(dtype=torch.float64, table=table).numpy()
        grid = np.exp2(np.linspace(-14, 8, 3000))
        assert min(numbers.relative_mse(s, np.array(line.values), cuts) for s in grid) >= least * 0.995


def test_sums_of_numbers() -> None:
    found = Sums.of(np.array([3.0, -1.0]))
    assert (found.x.tolist(), found.first.tolist(), found.second.tolist()) == ([-1, 3], [0, -1, 2], [0, 1, 10])


def test_a_format_stands_among_all_of_its_bits() -> None:
    rows = comparison(find_format("float4_e2m1fn"), Blocks((32,)))
    assert [r.name for r in rows if r.own] == ["float4_e2m1fn"] and {"int4", "nf4_element", "pot4", "af4", "sf4"} <= {r.name for r in rows}
    assert {r.bits for r in rows} == {4.0} and all(len(r.best) == len(r.blocks) == 3 for r in rows)
    assert [r.best[0] for r in rows] == sorted(r.best[0] for r in rows)
    assert rows[0].name == "nf4_element" and rows[-1].name == "pot4"


def test_a_users_table_stands_among_them_too() -> None:
    rows = comparison(find_format("table(-1;-0.3;0;0.3;1)"), Blocks((16,)))
    assert [r.name for r in rows if r.own] == ["table(-1;-0.3;0;0.3;1)"] and len(rows) > 4


def test_formats_of_one_sign_are_not_compared() -> None:
    assert comparison(find_format("ue5m3"), Blocks((32,))) == []
    assert comparison(find_format("posit32_2"), Blocks((32,))) == []


def test_a_quantizer_stands_among_its_neighbours() -> None:
    q = quantizer("nvfp4")
    rows = comparison(q.format, q.blocks, ("nvfp4", q))  # type: ignore[attr-defined]
    assert [r.name for r in rows if r.own] == ["nvfp4"]
    quantizers = {r.name: r for r in rows if not r.best}
    assert {"mxfp4", "hifloat4", "nf4"} <= set(quantizers) and all(abs(r.bits - 4.5) <= 0.5 for r in quantizers.values())
    errors = [r.blocks[0] for r in rows]
    assert errors == sorted(errors)
    assert quantizers["mxfp4"].blocks[0] > quantizers["nvfp4"].blocks[0] > quantizers["hifloat4"].blocks[0]
    assert [r.name for r in quantizer_rows("ggml_q4_k", quantizer("ggml_q4_k")) if r.own] == ["ggml_q4_k"]
