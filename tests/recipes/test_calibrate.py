"""Calibration block by block gives what a slow sweep over the whole model gives, and says what it cannot do."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowbit.errors import NonFiniteError, UnsupportedError
from lowbit.models.llama import Llama, LlamaConfig
from lowbit.philox import Key
from lowbit.progress import Progress
from lowbit.quantizers.spec import quantizer
from lowbit.recipes.calibrate import Before, Finished, calibrate, merged, units
from lowbit.recipes.plan import Plan, plan
from lowbit.recipes.walk import Source
from lowbit.solvers.gptq import GPTQ
from lowbit.solvers.qep import QEP
from lowbit.solvers.solver import Solver
from lowbit.statistics.gram import Cross, Gram

SHARED = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def llama(seed: int = 0) -> Llama:
    """Two blocks of random weights."""
    torch.manual_seed(seed)
    model = Llama(LlamaConfig(40, 32, 64, 2, 2, 1, 16, 64)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape) / parameter.shape[1] ** 0.5)
    return model


def sequences(count: int = 4, length: int = 24) -> list[Tensor]:
    return list(torch.randint(0, 40, (count, 1, length), generator=torch.Generator().manual_seed(1)))


def calibrated(
    model: nn.Module, samples: list[Any], solver: str | Solver = "gptq", weights: str = "int3 g32", **options: Any
) -> list[Finished]:
    chosen = {k: options.pop(k) for k in ("only", "ignore", "override") if k in options}
    return list(calibrate(model, plan(model, weights, solver, **chosen), Source(samples, model), **options))


def inputs_of(model: nn.Module, name: str, samples: list[Tensor]) -> list[Tensor]:
    """What a layer reads in ordinary passes of the whole model."""
    seen: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().flatten(0, -2)))
    with torch.no_grad():
        for sample in samples:
            model(sample)
    hook.remove()
    return seen


# ---- an oracle


@pytest.mark.parametrize("solver", [GPTQ(), QEP()], ids=["gptq", "qep"])
def test_it_is_a_slow_sweep_over_the_whole_model(solver: Solver) -> None:
    """Layer after layer, with ordinary passes of the model as quantized so far (and of the original), bit for bit."""
    samples, fast, slow, original = sequences(), llama(), llama(), llama()
    done = calibrated(fast, samples, solver)
    for block in range(2):
        for group in SHARED:
            names = [next(n for n, _ in slow.named_modules() if n.startswith(f"model.layers.{block}.") and n.endswith(p)) for p in group]
            gram, cross = Gram(), Cross()
            for x, reference in zip(inputs_of(slow, names[0], samples), inputs_of(original, names[0], samples), strict=True):
                gram.update(x)
                cross.update(x, reference=reference)
            for name in names:
                layer = slow.get_submodule(name)
                weight = solver.solve(layer.weight, quantizer("int3 g32"), {"gram": gram.value(), "cross": cross.value()}, Key(0, name))
                layer.weight.data = weight.dequantize()
    for name, expected in slow.named_parameters():
        assert torch.equal(fast.get_parameter(name), expected), name
    solved = [s.layer.name for unit in done for s in unit.solved]
    assert solved == [n for n, m in original.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]


def test_the_errors_it_reports() -> None:
    """||(W - Q) X||^2 / ||W X||^2 with the inputs that the layer got, and ||W - Q||^2 / ||W||^2."""
    samples, model, original = sequences(), llama(), llama()
    first = calibrated(model, samples)[0]
    for solved in first.solved:
        name, Q = solved.layer.name, solved.weight.dequantize().double()
        W = original.get_parameter(f"{name}.weight").detach().double()
        assert solved.error == pytest.approx(float((W - Q).square().sum() / W.square().sum()), rel=1e-4)
        if name.endswith(("q_proj", "k_proj", "v_proj")):
            X = torch.cat(inputs_of(original, name, samples)).double()
            expected = float((X @ (W - Q).mT).square().sum() / (X @ W.mT).square().sum())
            assert solved.output_error == pytest.approx(expected, rel=1e-3)


def test_it_gains_on_the_models_output() -> None:
    """Less than two thirds of the squared error that rounding makes, on the sequences that it saw."""
    samples, original = sequences(16), llama()
    errors = {}
    for solver in ("rtn", "gptq", "qep"):
        model = llama()
        calibrated(model, samples, solver)
        with torch.no_grad():
            errors[solver] = sum(float((model(s) - original(s)).square().sum()) for s in samples)
    assert errors["gptq"] < 0.67 * errors["rtn"]
    assert errors["qep"] < errors["gptq"]


# ---- what may not matter


@pytest.mark.parametrize("solver", ["gptq", "qep"])
def test_threads_and_files_change_no_byte(solver: str, tmp_path: Path) -> None:
    samples, found = sequences(), []
    for count, spill in ((1, None), (2, None), (2, tmp_path)):
        torch.set_num_threads(count)
        model = llama()
        calibrated(model, samples, solver, spill=spill)
        found.append(model.state_dict())
    assert all(torch.equal(v, other[k]) for other in found[1:] for k, v in found[0].items())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("solver", ["gptq", "qep"])
def test_what_is_kept_changes_no_byte(solver: str) -> None:
    """With room for everything, for some results, and for none."""
    samples, found = sequences(), []
    for room in (1 << 30, 60_000, 0):
        model = llama()
        calibrated(model, samples, solver, room=room)
        found.append(model.state_dict())
    assert all(torch.equal(v, other[k]) for other in found[1:] for k, v in found[0].items())


@pytest.mark.parametrize("solver", ["gptq", "qep"])
def test_a_block_is_run_about_once(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product is computed once a sequence and stream, and a few times more to find out how the model is built."""
    samples, model, products = sequences(16), llama(), 0
    linear = nn.functional.linear

    def counted(*args: Any) -> Tensor:
        nonlocal products
        products += 1
        return linear(*args)

    monkeypatch.setattr(nn.functional, "linear", counted)
    calibrated(model, samples, solver)
    streams = 2 if solver == "qep" else 1
    assert 14 * streams * len(samples) <= products <= 14 * (streams * len(samples) + 4)


@pytest.mark.parametrize("solver", ["gptq", "qep"])
def test_the_model_sees_one_sequence_at_a_time(solver: str) -> None:
    """There is no batch that could change a byte: every product of every pass has one sequence."""
    model, batches = llama(), set()
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            layer.register_forward_pre_hook(lambda m, args: batches.add(args[0].shape[0]))
    calibrated(model, sequences(), solver)
    assert batches == {1}


def test_layers_with_one_input_are_collected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = []
    real = Gram.update
    monkeypatch.setattr(Gram, "update", lambda self, x, **more: (updates.append(x.shape), real(self, x, **more)))
    calibrated(llama(), sequences(3))
    assert len(updates) == 2 * 4 * 3


def test_a_solver_without_needs_runs_no_model() -> None:
    model = llama()

    def never(sample: object) -> object:
        raise AssertionError("the model was run")

    done = list(calibrate(model, plan(model, "int4 g32", "rtn"), Source((), never)))
    assert [len(unit.solved) for unit in done] == [7, 7]
    expected = llama().model.layers[1].mlp.up_proj.weight
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, quantizer("int4 g32").quantize(expected).dequantize())


# ---- units


def test_units_are_the_blocks_then_what_lies_outside() -> None:
    model = llama()
    made = plan(model, "int4 g32", "gptq", ignore=[])
    found = units(model, made)
    assert [(u.index, u.name, len(u.layers)) for u in found] == [(0, "model.layers.0", 7), (1, "model.layers.1", 7), (2, "", 1)]
    only = plan(model, "int4 g32", "gptq", only=["*.1.mlp.*"])
    assert [(u.name, len(u.layers)) for u in units(model, only)] == [("model.layers.0", 0), ("model.layers.1", 3)]


def test_the_output_layer_sees_the_whole_quantized_model() -> None:
    samples, model = sequences(), llama()
    done = calibrated(model, samples, ignore=[])
    assert [unit.unit.name for unit in done] == ["model.layers.0", "model.layers.1", ""]
    gram = Gram()
    for x in inputs_of(model, "lm_head", samples):
        gram.update(x)
    expected = GPTQ().solve(llama().lm_head.weight, quantizer("int3 g32"), {"gram": gram.value()}, Key())
    assert torch.equal(model.lm_head.weight, expected.dequantize())
    assert done[-1].solved[0].output_error is not None


def test_blocks_without_layers_still_hand_on_the_stream() -> None:
    samples, part, whole = sequences(), llama(), llama()
    calibrated(part, samples, only=["*.layers.1.*"])
    for name in ("q_proj", "k_proj", "v_proj"):
        gram = Gram()
        for x in inputs_of(whole, f"model.layers.1.self_attn.{name}", samples):
            gram.update(x)
        weight = whole.get_parameter(f"model.layers.1.self_attn.{name}.weight")
        expected = GPTQ().solve(weight, quantizer("int3 g32"), {"gram": gram.value()}, Key()).dequantize()
        assert torch.equal(part.get_parameter(f"model.layers.1.self_attn.{name}.weight"), expected)
    assert torch.equal(part.model.layers[0].mlp.up_proj.weight, whole.model.layers[0].mlp.up_proj.weight)


def test_known_units_are_taken_and_the_rest_is_the_same() -> None:
    samples, first, second = sequences(), llama(), llama()
    done = calibrated(first, samples, "qep")
    weights = {s.layer.name: s.weight for s in done[0].solved}
    again = calibrated(second, samples, "qep", known=lambda unit: Before(weights, {}) if unit.index == 0 else None)
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
    assert [s.error for s in again[0].solved] == [s.error for s in done[0].solved]


def test_progress_names_the_blocks() -> None:
    events: list[Progress] = []
    calibrated(llama(), sequences(), ignore=[], progress=events.append)
    assert [(e.done, e.total, e.detail) for e in events] == [
        (0, 3, "model.layers.0"), (1, 3, "model.layers.1"), (2, 3, "outside the blocks"), (3, 3, ""),
    ]  # fmt: skip


# ---- what goes wrong


def test_nan_in_the_data_names_the_layer_and_the_sequence() -> None:
    model, samples = llama(), sequences()
    for i, sample in enumerate(samples):
        sample[sample == 39] = 0
        sample[0, 5] = 39 if i == 2 else 0
    with torch.no_grad():
        model.model.embed_tokens.weight[39] = float("nan")
    message = r"layer model\.layers\.0\.self_attn\.q_proj, calibration sequence 2: the inputs of this layer hold \d+ NaN or Inf"
    with pytest.raises(NonFiniteError, match=message):
        calibrated(model, samples)


def test_a_block_that_overflows_is_named() -> None:
    model = llama()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.sign_().mul_(3e38)
    with pytest.raises(
        NonFiniteError, match=r"the output of block model\.layers\.0 is not finite for calibration sequence 0; finished blocks stay"
    ):
        calibrated(model, sequences(), weights="int3 g32 scale=float32")


def test_weights_that_are_not_finite_are_named_before_any_work_on_them() -> None:
    model = llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds 0 NaN and 1 Inf"):
        calibrated(model, sequences())


def test_warnings_of_one_reason_are_one_line_in_their_order() -> None:
    warnings = ["a: 16 tokens: few", "a: no input", "b: 16 tokens: few", "c: 16 tokens: few"]
    assert merged(warnings) == ["a and 2 more: 16 tokens: few", "a: no input"]
    assert merged([]) == []


def test_too_few_tokens_give_a_warning_with_the_rank() -> None:
    done = calibrated(llama(), sequences(2, 20))
    assert done[0].warnings == [
        "model.layers.0.mlp.down_proj: 40 calibration tokens give a Gram matrix of rank 40 at most for 64 inputs; "
        "use more sequences or a larger damping"
    ]
    assert calibrated(llama(), sequences(4, 16))[0].warnings == []
    few = calibrated(llama(), sequences(1, 20))[0].warnings
    assert [w.partition(":")[0].rpartition(".")[2] for w in few] == ["q_proj", "o_proj", "gate_proj", "down_proj"]


def test_sequences_of_two_lengths_are_refused() -> None:
    samples = [*sequences(2, 24), *sequences(1, 20)]
    with pytest.raises(
        UnsupportedError, match=r"calibration sequence 2 gives a hidden state \(1, 20, 32\), the first one \(1, 24, 32\); use one length"
    ):
        calibrated(llama(), samples)


def test_a_solver_that_fails_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gram, "value", lambda self: -torch.eye(self.total.shape[0], dtype=torch.float64))
    with pytest.raises(
        UnsupportedError, match=r"layer model\.layers\.0\.self_attn\.q_proj: the Gram matrix of 32 inputs is not positive definite"
    ):
        calibrated(llama(), sequences())


# ---- other architectures


class Residual(nn.Module):
    """Two 3x3 convolutions and a 1x1 one on the skip, which reads what the first one reads."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        self.down = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + skip)


class Net(nn.Module):
    """A stem, two residual blocks, a grouped convolution, a linear layer that runs twice, a classifier."""

    def __init__(self, more: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.blocks = nn.Sequential(Residual(8, 16, 1), Residual(16, 16, 2))
        self.grouped = nn.Conv2d(16, 16, 3, 1, 1, groups=4) if more else nn.Identity()
        self.twice = nn.Linear(16, 16) if more else nn.Identity()
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(self.blocks(self.stem(x))).mean((2, 3))
        return self.fc(torch.relu(self.twice(torch.relu(self.twice(y)))))


def net(more: bool = False) -> Net:
    torch.manual_seed(3)
    return Net(more).eval()


def images() -> list[Tensor]:
    return list(torch.randn(6, 1, 3, 10, 10, generator=torch.Generator().manual_seed(2)))


def smoother(x: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(x, 3, 1, 1) * 3


def test_a_convolutional_network_gains_too() -> None:
    """Convolutions of two sizes that read one tensor have a matrix each; blocks change the size of the hidden state."""
    samples, original = [smoother(x) for x in images()], net()
    errors = {}
    for solver in ("rtn", "gptq"):
        model = net()
        done = calibrated(model, samples, solver, "int3 row")
        assert [w for unit in done for w in unit.warnings if "rank" not in w] == []
        with torch.no_grad():
            errors[solver] = sum(float((model(s) - original(s)).square().sum()) for s in samples)
    assert errors["gptq"] < 0.67 * errors["rtn"]


def test_what_is_not_sure_is_rounded_with_a_warning() -> None:
    model, samples = net(more=True), images()
    done = calibrated(model, samples, "gptq", "int4 row")
    warnings = [w for unit in done for w in unit.warnings if not re.search("rank", w)]
    assert warnings == [
        "grouped: a convolution with groups, or padded other than with zeros, has no single input matrix; rounded to nearest",
        "twice: it ran 2 times in one pass; rounded to nearest",
    ]
    for name in ("grouped", "twice"):
        W = net(more=True).get_submodule(name).weight
        assert torch.equal(model.get_submodule(name).weight, quantizer("int4 row").quantize(W.flatten(1)).dequantize().reshape(W.shape))


def test_an_embedding_has_no_inputs_to_learn_from() -> None:
    done = calibrated(llama(), sequences(), "gptq", "int4 g32", only=["Embedding"], ignore=[])
    assert [w for unit in done for w in unit.warnings] == ["model.embed_tokens: the rows of an embedding have no input; rounded to nearest"]


def test_streams_cannot_be_compared_outside_the_blocks() -> None:
    done = calibrated(llama(), sequences(), "qep", only=["lm_head"], ignore=[])
    assert [w for unit in done for w in unit.warnings] == [
        "lm_head: there is no full-precision stream outside the blocks; rounded to nearest"
    ]


def test_spilled_states_keep_their_shape(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"a block turns a hidden state \(1, 8, 10, 10\) into \(1, 16, 10, 10\); such models are"):
        calibrated(net(), images(), "gptq", "int4 row", spill=tmp_path)


@pytest.mark.parametrize("make", [llama, net])
def test_the_model_is_left_whole_when_something_fails(make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """No hook stays, no forward stays replaced, and what is not solved holds its original numbers."""
    model = make()
    before = copy.deepcopy(model.state_dict())
    samples = sequences() if make is llama else images()
    calls = iter(range(99))
    real = Gram.update

    def failing(self: Gram, x: Tensor, **more: Any) -> None:
        if next(calls) == 3:
            raise KeyError("stop")
        real(self, x, **more)

    monkeypatch.setattr(Gram, "update", failing)
    with pytest.raises(KeyError):
        calibrated(model, samples, "gptq", "int4 row")
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_plan_is_all_it_needs() -> None:
    """Overrides and quantizers of single layers reach the solver."""
    model = llama()
    made: Plan = plan(model, "int3 g32", "gptq", override={"*.down_proj": "int8"})
    done = list(calibrate(model, made, Source(sequences(), model)))
    specs = {s.layer.name.rpartition(".")[2]: s.weight.quantizers[0] for unit in done for s in unit.solved}
    assert specs["down_proj"] == quantizer("int8") and specs["up_proj"] == quantizer("int3 g32")
