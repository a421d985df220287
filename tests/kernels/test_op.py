"""Which kernel runs, what a refusal says, and that a missing extension is said once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lowbit
from lowbit.errors import NoKernel, UnknownName
from lowbit.kernels import op
from lowbit.kernels.op import FAKE_QUANTIZE, backend, extension
from lowbit.quantizers.spec import quantizer


def lowered(spec: str) -> object:
    return getattr(quantizer(spec), "lowered", None)


def test_the_extension_was_built() -> None:
    assert extension("lowbit._cpu") is not None, "lowbit._cpu is missing; `pip install -e .` builds it"


def test_the_plan_names_the_kernel_and_every_refusal() -> None:
    kernel, refusals = FAKE_QUANTIZE.plan(torch.zeros(4, 32), lowered("mxfp4"))
    assert kernel is not None
    assert kernel.__name__ == "lowbit.kernels.cpu.fake_quantize"
    assert refusals == {}
    kernel, refusals = FAKE_QUANTIZE.plan(torch.zeros(4, 32), lowered("int4 g32 percentile"))
    assert kernel is None
    assert "percentile" in refusals["cpu"]


@pytest.mark.parametrize(
    "x, spec, reason",
    [
        (torch.zeros(4, 32, dtype=torch.float64), "mxfp4", "float64"),
        (torch.zeros(4, 32, device="meta"), "mxfp4", "meta"),
        (torch.zeros(4, 32, requires_grad=True), "mxfp4", "gradient"),
        (torch.zeros(4, 4, 4), "int4 2x2x2", "rows and columns"),
        (torch.zeros(4, 32), "int4 g32 hqq", "hqq"),
        (torch.zeros(4, 32), "int4 g32 center=g32", "mean"),
        (torch.zeros(4, 64), "int4 2x2 mse", "within a row"),
    ],
)
def test_a_backend_that_is_named_does_not_fall_back(x: torch.Tensor, spec: str, reason: str) -> None:
    with backend("cpu"), pytest.raises(NoKernel, match=reason):
        lowbit.fake_quantize(x, spec)


def test_the_reference_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with backend("reference"):
        assert FAKE_QUANTIZE.plan(torch.zeros(4, 32), lowered("mxfp4")) == (None, {})
        assert FAKE_QUANTIZE.kernel(torch.zeros(4, 32), lowered("mxfp4")) is None


def test_a_device_that_is_not_there_is_a_reason_and_nothing_else_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(op, "_cuda", lambda: False)
    op._kernel.cache_clear()
    with backend("triton"), pytest.raises(NoKernel, match="there is no CUDA device"):
        lowbit.fake_quantize(torch.zeros(4, 32), "mxfp4")
    assert "triton" not in FAKE_QUANTIZE.plan(torch.zeros(4, 32), lowered("int4 g32 percentile"))[1]
    op._kernel.cache_clear()


def test_an_operation_that_a_backend_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "_absent", lambda name: None)
    op._kernel.cache_clear()
    assert op._kernel("triton", "pack") == "no pack for triton"
    op._kernel.cache_clear()


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(UnknownName, match="no backend is called 'tpu'"), backend("tpu"):
        pass


@pytest.fixture
def no_extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def forget() -> None:
        op.extension.cache_clear()
        op._kernel.cache_clear()

    forget()
    monkeypatch.setitem(sys.modules, "lowbit._cpu", None)
    yield
    forget()


def test_without_the_extension_the_reference_runs_and_it_is_said_once(no_extension: None) -> None:
    x = torch.randn(4, 32)
    with pytest.warns(RuntimeWarning, match="lowbit._cpu was not built"):
        y = lowbit.fake_quantize(x, "mxfp4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = lowbit.fake_quantize(x, "mxfp4")
    assert torch.equal(y, again)
    with backend("cpu"), pytest.raises(NoKernel, match="was not built"):
        lowbit.fake_quantize(x, "mxfp4")


def test_without_the_extension_models_quantize_load_and_generate(no_extension: None, tmp_path: Path) -> None:
    """On dense copies of the packed weights, which are kept; said once for all of it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = lowbit.quantize(lowbit.open_model("builtin"), "int4 g32", only=["Linear", "Embedding"])
        text = model.generate("def add(", 8)
        lowbit.save(model, tmp_path / "q")
        assert lowbit.load(tmp_path / "q").generate("def add(", 8) == text
    ours = [str(w.message) for w in said if "lowbit._cpu" in str(w.message)]
    assert len(ours) == 1 and "slower" in ours[0] and "pip install" in ours[0]
    assert model.fused() == "lowbit._cpu was not built"
    layer = model.module.model.layers[0].mlp.up_proj
    assert layer.route() == ("torch", "qlinear: lowbit._cpu was not built from these sources")
    assert layer.weight.kept is not None and model.module.model.embed_tokens.weight.kept is not None


def test_an_extension_of_other_sources_is_not_used(no_extension: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lowbit._cpu", SimpleNamespace(interface=0))
    with pytest.warns(RuntimeWarning, match="built from other sources"):
        assert extension("lowbit._cpu") is None


def test_an_extension_that_fails_to_import_is_not_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")

    op.extension.cache_clear()
    monkeypatch.setattr(op.importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="elsewhere"):
        extension("lowbit._cpu")
