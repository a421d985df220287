"""A block as a function of its weights gives what the block gives with them, and is left as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from lowbit.models.llama import Llama, LlamaConfig
from lowbit.nn.capture import calls, returns_tuple
from lowbit.nn.pure import PureBlock


def llama() -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(40, 32, 64, 2, 2, 1, 16, 64)).eval()


def case() -> tuple[nn.Module, PureBlock, dict[str, Tensor], tuple[Tensor, ...], dict[str, object]]:
    model, ids = llama(), torch.arange(24)[None]
    block = model.model.layers[1]
    call = calls([block], model, ids, returns_tuple(block, model, ids))[0]
    names = [name for name, m in block.named_modules() if isinstance(m, nn.Linear)]
    weights = {n: torch.randn(block.get_submodule(n).weight.shape) / 6 for n in names}
    return block, PureBlock(block, names, call.in_tuple), weights, (torch.randn(1, 24, 32), *call.args), call.kwargs


def test_it_is_the_block_with_other_weights() -> None:
    block, pure, weights, args, kwargs = case()
    before = {name: p.clone() for name, p in block.named_parameters()}
    found = pure(weights, args, kwargs)
    assert all(torch.equal(p, before[name]) for name, p in block.named_parameters())
    with torch.no_grad():
        for name, W in weights.items():
            block.get_submodule(name).weight.copy_(W)
        assert torch.equal(block(*args, **kwargs), found)


def test_its_gradient_is_that_of_the_weights_only() -> None:
    block, pure, weights, args, kwargs = case()
    leaves = {n: W.requires_grad_() for n, W in weights.items()}
    gradients = torch.autograd.grad(pure(leaves, args, kwargs).square().sum(), list(leaves.values()))
    assert all(bool(g.any()) for g in gradients)
    assert all(p.grad is None for p in block.parameters())
    name, step = "mlp.down_proj", 1e-3
    E = torch.zeros_like(weights[name])
    E[3, 5] = step
    with torch.no_grad():
        moved = [float(pure({**weights, name: weights[name] + s * E}, args, kwargs).double().square().sum()) for s in (1, -1)]
    slope = gradients[list(weights).index(name)][3, 5]
    assert abs((moved[0] - moved[1]) / (2 * step) - float(slope)) < 1e-2 * abs(float(slope)) + 1e-3


def test_threads_do_not_see_each_others_weights() -> None:
    """Thirty calls with different weights, by four threads at a time."""
    _, pure, weights, args, kwargs = case()

    def run(i: int) -> Tensor:
        with torch.no_grad():
            return pure({n: W * i for n, W in weights.items()}, args, kwargs)

    expected = [run(i) for i in range(30)]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(a, b) for a, b in zip(expected, pool.map(run, range(30)), strict=True))


def test_weights_as_matrices_take_the_shape_and_dtype_of_the_layer() -> None:
    block = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()).to(torch.bfloat16)
    pure = PureBlock(block, ["0"], False)
    W = torch.randn(4, 18)
    x = torch.randn(1, 2, 5, 5).bfloat16()
    found = pure({"0": W}, (x,), {})
    with torch.no_grad():
        block[0].weight.copy_(W.reshape(4, 2, 3, 3))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, block(x))
