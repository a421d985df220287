"""Blocks solved together: the samples are those of a slow pass, and nothing that may not matter changes a byte."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowbit.errors import DataError, NonFiniteError, UnsupportedError
from lowbit.models.llama import Llama, LlamaConfig
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.spec import quantizer
from lowbit.quantizers.weight import Weight
from lowbit.recipes.calibrate import Before, Finished, calibrate
from lowbit.recipes.plan import plan
from lowbit.recipes.quantize import quantize
from lowbit.recipes.walk import Source
from lowbit.solvers.block_solver import BlockSolver, Forward, Sample
from lowbit.solvers.gptq import GPTQ
from lowbit.solvers.qep import QEP
from lowbit.solvers.solver import Solver


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


def run(
    model: nn.Module, solver: str | Solver, samples: Sequence[Any] | None = None, weights: str = "int3 g32", **options: Any
) -> list[Finished]:
    chosen = {k: options.pop(k) for k in ("only", "ignore") if k in options}
    return list(calibrate(model, plan(model, weights, solver, **chosen), Source(samples or sequences(), model), **options))


def states(model: nn.Module, samples: Sequence[Tensor]) -> list[list[Tensor]]:
    """What goes into each block and out of the last one, in ordinary passes."""
    seen: list[list[Tensor]] = []
    hooks = [
        block.register_forward_hook(lambda m, args, out: seen[-1].append((args[0].detach(), out.detach())))  # type: ignore[arg-type]
        for block in model.model.layers  # type: ignore[union-attr]
    ]
    with torch.no_grad():
        for sample in samples:
            seen.append([])
            model(sample)
    for hook in hooks:
        hook.remove()
    return seen


@dataclass(frozen=True)
class Looking(BlockSolver):
    """Keeps the start, and what it was shown."""

    shown: Any = None

    def solve_block(
        self, weights: Mapping[str, Tensor], quantizers: Mapping[str, Quantizer], forward: Forward, samples: Sequence[Sample], key: Key,
        start: Mapping[str, Weight],
    ) -> Mapping[str, Weight]:  # fmt: skip
        outputs = [forward(weights, s) for s in samples]
        quantized = [forward({n: w.dequantize() for n, w in start.items()}, s) for s in samples]
        self.shown.append((key, {n: w.clone() for n, w in weights.items()}, list(samples), outputs, quantized))
        return start


@pytest.mark.parametrize("target", ["model", "block"])
@pytest.mark.parametrize("start", [None, GPTQ(), QEP()], ids=["rtn", "gptq", "qep"])
def test_what_a_solver_is_shown_is_what_slow_passes_give(target: Any, start: Solver | None) -> None:
    """Original weights; inputs of the quantized stream; targets of the full-precision stream, or of the block in full precision."""
    samples, shown = sequences(), []
    model, original = llama(), llama()
    options = {} if start is None else {"start": start}
    looking = Looking(target=target, shown=shown, **options)  # type: ignore[arg-type]
    made = plan(model, "int3 g32", "rtn")
    object.__setattr__(made, "solver", looking)
    done = list(calibrate(model, made, Source(samples, model)))
    exact, quantized = states(original, samples), states(model, samples)
    for b, (key, weights, found, outputs, last) in enumerate(shown):
        block = original.model.layers[b]
        assert key == Key(0, f"model.layers.{b}")
        for name, W in weights.items():
            assert torch.equal(W, block.get_submodule(name).weight)
        for i, sample in enumerate(found):
            assert torch.equal(sample.args[0], quantized[i][b][0])
            if target == "model":
                assert torch.equal(sample.target, exact[i][b][1])
            else:
                assert torch.equal(sample.target, outputs[i])
            assert torch.equal(last[i], quantized[i][b][1]), "the start in its place gives what the quantized stream goes on with"
    alone = llama()
    run(alone, "rtn" if start is None else start)
    assert all(torch.equal(p, alone.get_parameter(n)) for n, p in model.named_parameters())
    assert [len(u.solved) for u in done] == [7, 7]


@pytest.mark.parametrize("solver", ["signround:steps=6", "adaround:steps=8:rate=0.3", "signround:steps=6:start=qep:batch=3:target=block"])
def test_threads_files_and_room_change_no_byte(solver: str, tmp_path: Path) -> None:
    found = []
    for count, spill, room in ((1, None, None), (2, None, None), (2, tmp_path, 0)):
        torch.set_num_threads(count)
        model = llama()
        run(model, solver, spill=spill, room=room)
        found.append(model.state_dict())
    assert all(torch.equal(v, other[k]) for other in found[1:] for k, v in found[0].items())
    assert list(tmp_path.iterdir()) == []


def test_the_model_sees_one_sequence_at_a_time() -> None:
    model, batches = llama(), set()
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            layer.register_forward_pre_hook(lambda m, args: batches.add(args[0].shape[0]))
    run(model, "signround:steps=4:batch=4")
    assert batches == {1}


def test_a_known_unit_is_taken_and_the_rest_is_the_same() -> None:
    first, second = llama(), llama()
    done = run(first, "signround:steps=6")
    weights = {s.layer.name: s.weight for s in done[0].solved}
    run(second, "signround:steps=6", known=lambda unit: Before(weights, {}) if unit.index == 0 else None)
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())


def test_it_gains_on_the_models_output() -> None:
    """Less than half of the squared error that rounding makes, and less than GPTQ, on the sequences that it saw."""
    samples, original, errors = sequences(16), llama(), {}
    for solver in ("rtn", "gptq", "signround", "signround:start=qep"):
        model = llama()
        run(model, solver, samples)
        with torch.no_grad():
            errors[solver] = sum(float((model(s) - original(s)).square().sum()) for s in samples)
    assert errors["signround"] < 0.5 * errors["rtn"]
    assert errors["signround"] < errors["gptq"]
    assert errors["signround:start=qep"] < errors["gptq"]


def test_layers_outside_of_blocks_go_to_the_start_with_a_warning() -> None:
    model = llama()
    done = run(model, "signround:steps=3", ignore=[])
    assert done[-1].warnings == ["lm_head: signround:steps=3 solves blocks, and this layer lies in none; solved by rtn"]
    assert torch.equal(model.lm_head.weight, quantizer("int3 g32").quantize(llama().lm_head.weight).dequantize())
    assert all(not unit.warnings for unit in done[:-1])


def test_a_model_without_blocks_is_solved_by_the_start() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    samples = list(torch.randn(3, 4, 32))
    expected = quantizer("int4 g32").quantize(net[0].weight.detach()).dequantize()
    done = list(calibrate(net, plan(net, "int4 g32", "signround"), Source(samples, net)))
    assert "this layer lies in none; solved by rtn" in done[0].warnings[0]
    assert torch.equal(net[0].weight, expected)


def test_a_solver_that_fails_names_the_block() -> None:
    model = llama()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.sign_().mul_(3e38)
    with pytest.raises(NonFiniteError, match=r"block model\.layers\.0: the output of the block is not finite at any step"):
        run(model, "signround:steps=3", weights="int3 g32 scale=float32")


def test_what_does_not_fit_is_refused_when_it_is_planned() -> None:
    with pytest.raises(UnsupportedError, match="signround chooses between two numbers of one table, bitmod3 g32 has no such table"):
        plan(llama(), "bitmod3 g32", "signround")
    with pytest.raises(DataError, match="has no tokenizer: give data="):
        quantize(llama(), "int4 g32", solver="signround")


def test_convolutions_are_solved_in_their_blocks() -> None:
    """Their weights are matrices to the solver and have their own shape in the block."""
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.two(torch.relu(self.one(x)))

    net = nn.Sequential(nn.Sequential(Block(), Block(), Block()), nn.Flatten())
    samples = list(torch.randn(4, 1, 8, 6, 6))
    with torch.no_grad():
        exact = [net(s) for s in samples]
    lost = {}
    for solver in ("rtn", "signround:steps=60:batch=2"):
        model = copy.deepcopy(net)
        list(calibrate(model, plan(model, "int3 row", solver), Source(samples, model)))
        with torch.no_grad():
            lost[solver] = sum(float((model(s) - e).square().sum()) for s, e in zip(samples, exact, strict=True))
    assert lost["signround:steps=60:batch=2"] < 0.7 * lost["rtn"]
