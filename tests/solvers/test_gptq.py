"""GPTQ: what it is for independent inputs, what it gains for others, and the textbook's sweep as a reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lowbit import catalog
from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.formats.table import TableFormat
from lowbit.philox import Key
from lowbit.quantizers.grid import Grid, QTensor, dense
from lowbit.quantizers.spec import quantizer
from lowbit.solvers import gptq
from lowbit.solvers.gptq import GPTQ
from lowbit.solvers.solver import solver, text

ROWS, N = 24, 128
#: fitted group by group in the sweep: groups, rows, nested scales, offsets, zero points, two scales, alternative tables
REFITTED = [
    "int4 g32",
    "int3 g64 mse",
    "int4 row",
    "int2 g32",
    "int4 g64 asym",
    "int4 g32 hqq",
    "mxfp4",
    "nvfp4",
    "fp8",
    "e2m1 g64 sign_split",
    "bitmod4",
]
#: fitted once, before the sweep: flat blocks, nested scales over flat blocks, tiles, a whole tensor
STATIC = ["nf4", "nf4_single", "int4 flat64", "int4 8x32", "fp8 tensor", "ternary"]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(rows: int = ROWS, n: int = N, tokens: int = 512, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight, and the Gram matrix of correlated inputs whose sizes differ."""
    g = torch.Generator().manual_seed(seed)
    W, mix = torch.randn(rows, n, generator=g), torch.randn(n, n, generator=g)
    X = torch.randn(tokens, n, generator=g) @ mix * torch.rand(n, generator=g).add(0.2)
    return W, (X.mT @ X).double()


def output_error(W: Tensor, Q: Tensor, H: Tensor) -> float:
    D = (W - Q).double()
    return float(((D @ H) * D).sum())


def solved(W: Tensor, H: Tensor, spec: str, order: str = "none", **options: object) -> QTensor:
    weight = GPTQ(order=order, **options).solve(W, quantizer(spec), {"gram": H}, Key())  # type: ignore[arg-type]
    (term,) = weight.terms
    assert isinstance(term, QTensor)
    return term


# ---- identities


@pytest.mark.parametrize("order", ["none", "act", "group"])
@pytest.mark.parametrize("spec", REFITTED + STATIC)
def test_independent_inputs_need_no_feedback(spec: str, order: str) -> None:
    """A row of U has one element then: GPTQ is rounding to nearest, to the code, the sign of zero included."""
    W, H = problem()
    got = solved(W, torch.diag(H.diagonal()), spec, order=order)
    plain = quantizer(spec).quantize(W)
    assert torch.equal(got.codes, plain.codes)
    assert torch.equal(got.dequantize(), plain.dequantize())


def test_one_column_is_rounding() -> None:
    W = torch.randn(16, 1, generator=torch.Generator().manual_seed(0))
    for order in ("none", "act", "group"):
        got = solved(W, torch.tensor([[3.0]], dtype=torch.float64), "int4 row", order=order)
        assert torch.equal(got.codes, quantizer("int4 row").quantize(W).codes)


def textbook(W: Tensor, H: Tensor, values: Tensor, scale: Tensor, damping: float) -> Tensor:
    """Algorithm 1 of the paper in float64, column by column with no batches; the grid of every element is given."""
    W, Q, n = W.double().clone(), torch.zeros(W.shape, dtype=torch.float64), W.shape[1]
    Hinv = torch.linalg.inv(H + damping * H.diagonal().mean() * torch.eye(n, dtype=torch.float64))
    Hinv = torch.linalg.cholesky(Hinv).mT  # upper triangular
    for i in range(n):
        y = (W[:, i] / scale[:, i])[:, None]
        Q[:, i] = values[(y - values).abs().argmin(1)] * scale[:, i]
        error = (W[:, i] - Q[:, i]) / Hinv[i, i]
        W[:, i:] -= error[:, None] * Hinv[i, i:]
    return Q


@pytest.mark.parametrize("batch", [1, 48, 128, 1000])
@pytest.mark.parametrize("spec", ["int4 row", "int3 row", "fp8", "nf4_single", "int4 flat64", "mxfp4 flat32"])
def test_the_textbook_sweep_gives_the_same_codes(spec: str, batch: int) -> None:
    """Scales that do not move in the sweep. Near-ties may fall otherwise in float32: in 3 rows of 64 at most."""
    W, H = problem(64)
    got = solved(W, H, spec, batch=batch)
    grid = quantizer(spec).grid(W)
    assert isinstance(grid.format, TableFormat) and grid.scale is not None
    scale = grid.blocks.expand(dense(grid.scale), grid.shape).double()
    values = torch.tensor(grid.format.lines[0].values, dtype=torch.float64)
    expected = textbook(W, H, values, scale, 0.01)
    differs = (got.dequantize().double() - expected).abs() > 1e-6 * expected.abs().clamp(min=scale * 1e-3)
    assert int(differs.any(1).sum()) <= 3
    assert float(differs.double().mean()) < 0.01


@pytest.mark.parametrize("spec", ["int4 g32", "int3 g64", "nvfp4", "int4 g64 asym", "nf4_single"])
def test_batches_change_no_code(spec: str) -> None:
    """Batches that end inside groups, with groups, and nowhere; here no near-tie falls otherwise."""
    W, H = problem()
    expected = solved(W, H, spec, batch=1)
    for batch in (7, 32, 48, 100, 128, 4096):
        got = solved(W, H, spec, batch=batch)
        assert torch.equal(got.codes, expected.codes), batch
        torch.testing.assert_close(got.dequantize(), expected.dequantize(), rtol=1e-4, atol=1e-5)


# ---- what it gains


@pytest.mark.parametrize("spec", [
    "int4 g32", "int3 g32", "int4 g64 asym", "int4 g64 hqq", "mxfp4", "mxfp8", "nvfp4", "nf4", "fp8", "e2m1 g64 sign_split", "bitmod4",
])  # fmt: skip
def test_the_output_error_is_well_below_that_of_rounding(spec: str) -> None:
    """By a third at least, on inputs that are correlated but have full rank."""
    for seed in range(3):
        W, H = problem(seed=seed)
        rounded = output_error(W, quantizer(spec).quantize(W).dequantize(), H)
        swept = output_error(W, solved(W, H, spec).dequantize(), H)
        assert swept < 0.67 * rounded


@pytest.mark.parametrize("order", ["act", "group"])
def test_orders_gain_where_inputs_differ_in_size(order: str) -> None:
    """On the mean of 6 problems with a few large inputs among many small ones."""
    plain = ordered = 0.0
    for seed in range(6):
        W, H = problem(seed=seed)
        sizes = torch.where(torch.rand(N, generator=torch.Generator().manual_seed(seed)) < 0.1, 8.0, 0.5).double()
        H = H * sizes[:, None] * sizes
        plain += output_error(W, solved(W, H, "int3 g32").dequantize(), H)
        ordered += output_error(W, solved(W, H, "int3 g32", order=order).dequantize(), H)
    assert ordered < plain


# ---- orders


def test_act_order_keeps_the_grid_of_plain_rounding() -> None:
    """Static groups: the scales are those of the original columns, and no index is stored."""
    W, H = problem()
    got, plain = solved(W, H, "int4 g32", order="act"), quantizer("int4 g32").quantize(W)
    assert got.packed().keys() == plain.packed().keys()
    assert all(torch.equal(got.packed()[k], v) for k, v in plain.packed().items() if k.startswith("scale"))
    assert not torch.equal(got.codes, plain.codes)


def test_group_order_fits_every_group_on_its_own_columns() -> None:
    """The last group of the sweep has been changed most, the first one is fitted on the original numbers."""
    W, H = problem()
    got, plain = solved(W, H, "int4 g32", order="group"), quantizer("int4 g32").quantize(W)
    assert isinstance(got.grid.scale, QTensor) and isinstance(plain.grid.scale, QTensor)
    first = int(H.diagonal().reshape(-1, 32).amax(1).argmax())
    same = (got.grid.scale.codes == plain.grid.scale.codes).all(0)
    assert same.nonzero().flatten().tolist() == [first]


@pytest.mark.parametrize("order", ["act", "group"])
def test_an_order_is_a_permutation_of_the_problem(order: str) -> None:
    """Shuffle the columns of W and H (whole groups for the group order): the result is shuffled alike."""
    W, H = problem()
    spec, g = ("int4 row", 1) if order == "act" else ("int4 g32", 32)
    shuffled = torch.randperm(N // g, generator=torch.Generator().manual_seed(1))
    perm = (shuffled[:, None] * g + torch.arange(g)).reshape(-1)
    straight = solved(W, H, spec, order=order)
    moved = solved(W[:, perm], H[perm][:, perm], spec, order=order)
    assert torch.equal(moved.codes, straight.codes[:, perm])


def test_the_order_is_that_of_the_diagonal() -> None:
    diagonal = torch.tensor([1.0, 9.0, 4.0, 4.0, 16.0, 0.0, 2.0, 3.0], dtype=torch.float64)
    assert GPTQ(order="none")._permutation(diagonal, 4) is None
    by_act, by_group = GPTQ(order="act")._permutation(diagonal, 4), GPTQ(order="group")._permutation(diagonal, 4)
    assert by_act is not None and by_act.tolist() == [4, 1, 2, 3, 7, 6, 0, 5]
    assert by_group is not None and by_group.tolist() == [4, 7, 6, 5, 1, 2, 3, 0]


# ---- edges


@pytest.mark.parametrize("spec", ["nf4_single", "int4 tensor", "int4 8x32"])
def test_inputs_that_are_always_zero_keep_their_nearest_codes(spec: str) -> None:
    W, H = problem()
    dead = torch.tensor([0, 5, 77, 127])
    H[dead], H[:, dead] = 0, 0
    for order in ("none", "act"):
        got = solved(W, H, spec, order=order)
        assert torch.equal(got.codes[:, dead], quantizer(spec).quantize(W).codes[:, dead])
        assert not torch.equal(got.codes, quantizer(spec).quantize(W).codes)


def test_a_layer_without_any_input_is_rounded() -> None:
    W, _ = problem()
    assert torch.equal(solved(W, torch.zeros(N, N, dtype=torch.float64), "int4 g32").codes, quantizer("int4 g32").quantize(W).codes)


@pytest.mark.parametrize("spec", REFITTED + STATIC)
def test_a_row_of_zeros_stays_zero(spec: str) -> None:
    W, H = problem()
    W[3] = 0
    got = solved(W, H, spec).dequantize()
    assert torch.equal(got[3], torch.zeros(N))
    assert bool(torch.isfinite(got).all())


@pytest.mark.parametrize("spec", ["fp8 overflow=special", "fp8_e5m2 tensor overflow=special"])
def test_feedback_that_leaves_the_range_saturates(spec: str) -> None:
    """Rounding to nearest never overflows an absmax scale; columns that feedback has enlarged would, and become NaN or Inf."""
    W, H = problem()
    W = W.sign() * (0.9 + 0.1 * W.abs() / W.abs().max())  # every number is near the end of the range
    assert bool(torch.isfinite(solved(W, H, spec).dequantize()).all())


def test_the_weight_and_the_gram_matrix_stay_as_they_are() -> None:
    W, H = problem()
    copies = W.clone(), H.clone()
    for order in ("none", "act", "group"):
        solved(W, H, "int4 g32", order=order)
    assert torch.equal(W, copies[0]) and torch.equal(H, copies[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_worked_on_in_float32(dtype: torch.dtype) -> None:
    W, H = problem()
    assert torch.equal(solved(W.to(dtype), H, "int4 g32").codes, solved(W.to(dtype).float(), H, "int4 g32").codes)


@pytest.mark.parametrize("spec", ["int4 g32", "nvfp4", "nf4"])
def test_threads_change_no_byte(spec: str) -> None:
    W, H = problem(200, 384, 1024)
    found = []
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        found.append(solved(W, H.clone(), spec).packed())
    for other in found[1:]:
        assert all(torch.equal(other[k], v) for k, v in found[0].items())
    assert torch.get_num_threads() == 1


# ---- packing


@pytest.mark.parametrize("order", ["none", "act", "group"])
@pytest.mark.parametrize("spec", REFITTED + STATIC)
def test_what_it_returns_packs_and_unpacks(spec: str, order: str) -> None:
    W, H = problem()
    chosen = quantizer(spec)
    weight = GPTQ(order=order).solve(W, chosen, {"gram": H}, Key())  # type: ignore[arg-type]
    parts = weight.packed()
    assert weight.quantizers == (chosen,)
    assert weight.nbytes == chosen.nbytes((ROWS, N)) == sum(p.numel() * p.element_size() for p in parts.values())
    back = chosen.unpack(parts, (ROWS, N))
    assert torch.equal(back.dequantize(), weight.dequantize())


@pytest.mark.parametrize("name", [e.name for e in catalog.entries("quantizer")])
def test_every_registered_quantizer_gets_its_own_tensors_back_or_is_refused(name: str) -> None:
    """Also those that pack in a way of their own; what is packed is what was solved."""
    W, H = problem(16, 256)
    chosen = quantizer(name)
    if type(chosen.grid(W)) is not Grid:
        with pytest.raises(UnsupportedError, match="gptq rounds column by column"):
            GPTQ().solve(W, chosen, {"gram": H}, Key())
        return
    weight = GPTQ(order="none").solve(W, chosen, {"gram": H}, Key())
    assert weight.nbytes == chosen.nbytes((16, 256))
    back = chosen.unpack(weight.packed(), (16, 256))
    assert torch.equal(back.dequantize(), weight.dequantize())
    assert bool(torch.isfinite(back.dequantize()).all())


def test_quantizers_that_do_not_round_single_numbers_are_refused() -> None:
    W, H = problem()
    with pytest.raises(UnsupportedError, match="gptq rounds column by column, which a PhaseGrid does not do"):
        solved(W, H, "ifairy")


def test_groups_are_refitted_under_the_frozen_scale_of_the_tensor() -> None:
    """NVFP4: the float32 scale over all stays, the e4m3 scales of later groups follow the columns as they have become."""
    W, H = problem()
    got, plain = solved(W, H, "nvfp4").packed(), quantizer("nvfp4").quantize(W).packed()
    assert torch.equal(got["scale.scale"], plain["scale.scale"])
    assert torch.equal(got["scale.codes"].reshape(ROWS, -1)[:, 0], plain["scale.codes"].reshape(ROWS, -1)[:, 0])
    assert not torch.equal(got["scale.codes"], plain["scale.codes"])


# ---- errors


def test_a_gram_of_the_wrong_size_is_named() -> None:
    W, H = problem()
    with pytest.raises(ShapeError, match=r"gram is \(127, 127\), but W has 128 inputs"):
        solved(W, H[:127, :127], "int4 g32")


@pytest.mark.parametrize("order", ["none", "act"])
def test_a_factorization_that_fails_says_what_to_do(order: str) -> None:
    """An indefinite matrix, beyond what a hundredfold damping repairs; the matrix is left as it was."""
    W, H = problem()
    signs = torch.where(torch.arange(N) % 2 == 0, -3.0, 5.0).double()
    H = torch.diag(H.diagonal().mean() * signs) + 0.01 * H
    copy = H.clone()
    with pytest.raises(UnsupportedError) as error:
        solved(W, H, "int4 g32", order=order)
    assert str(error.value) == (
        "the Gram matrix of 128 inputs is not positive definite even with damping 1; "
        "use more calibration tokens or a larger damping (gptq:damping=0.1)"
    )
    assert torch.equal(H, copy)
    H[0, 1] = H[1, 0] = float("nan")
    with pytest.raises(UnsupportedError, match="is not positive definite"):
        solved(W, H, "int4 g32", order=order)


def test_a_matrix_of_low_rank_is_damped_until_it_works() -> None:
    W, _ = problem()
    x = torch.randn(3, N, generator=torch.Generator().manual_seed(0))
    H = (x.mT @ x).double()
    assert output_error(W, solved(W, H, "int4 g32").dequantize(), H) < 0.2 * output_error(
        W, quantizer("int4 g32").quantize(W).dequantize(), H
    )
    slightly = H - 0.05 * H.diagonal().mean() * torch.eye(N, dtype=torch.float64)  # the first damping is not enough
    assert bool(torch.isfinite(solved(W, slightly, "int4 g32").dequantize()).all())


@pytest.mark.parametrize(("spec", "message"), [
    ("gptq:damping=0", "gptq:damping=0.0: the damping is above 0"),
    ("gptq:damping=-1", "the damping is above 0"),
    ("gptq:damping=nan", "the damping is above 0"),
    ("gptq:order=up", "gptq:order='up': the order is none, act or group"),
])  # fmt: skip
def test_parameters_are_checked(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        solver(spec)


def test_spec_strings() -> None:
    assert solver("gptq:damping=0.05:order=act") == GPTQ(0.05, "act")
    assert text(GPTQ(order="group")) == "gptq:order=group"
    assert text(GPTQ()) == "gptq"


@pytest.mark.parametrize("rounding", ["stochastic", "toward_zero"])
def test_roundings_that_it_does_not_do_are_refused(rounding: str) -> None:
    W, H = problem()
    with pytest.raises(UnsupportedError, match=f"gptq rounds to nearest, the quantizer says round={rounding}"):
        solved(W, H, f"int4 g32 round={rounding}")


# ---- the shared factor


def test_layers_with_one_input_share_the_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    W, H = problem()
    computed = []
    real = gptq.inverse_factor

    def counting(H: Tensor, damping: float, perm: Tensor | None = None) -> Tensor:
        computed.append(damping)
        return real(H, damping, perm)

    monkeypatch.setattr(gptq, "inverse_factor", counting)
    first = solved(W, H, "int4 g32")
    for spec in ("int4 g32", "int3 g64", "nvfp4"):
        solved(W, H, spec)
    assert len(computed) == 1
    solved(W, H, "int4 g32", order="act")
    solved(W, H, "int4 g32", damping=0.1)
    solved(W, H.clone(), "int4 g32", damping=0.1)
    assert len(computed) == 4
    H.mul_(torch.rand(N, generator=torch.Generator().manual_seed(0)).double()[:, None] + 1).add_(H.mT.clone())
    changed = solved(W, H, "int4 g32")
    assert len(computed) == 5, "the matrix has been changed in place"
    assert not torch.equal(changed.codes, first.codes)
    del H
    assert gptq._Last.factor is None, "the factor outlives its Gram matrix"
