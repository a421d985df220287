"""How fast a model generates, and how much of the machine's memory bandwidth and arithmetic that is."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowbit.kernels.op import extension
from lowbit.models.model import LanguageModel
from lowbit.nn.convolution import Convolution
from lowbit.nn.embedding import Embedding
from lowbit.nn.linear import Linear
from lowbit.nn.replace import dense_module, put


@dataclass(frozen=True)
class Speed:
    """Tokens a second, medians of the rounds.

    Args:
        prefill: of a prompt, until the first new token is there.
        decode: of the tokens after it, one at a time.
    """

    prefill: float
    decode: float


def generation_speed(model: LanguageModel, prompt: int, count: int, rounds: int = 3) -> Speed:
    """Measure greedy generation of one sequence, as ``model.extend`` runs it.

    Args:
        prompt: tokens of the prompt, drawn at random.
        count: tokens that follow the first new one.
        rounds: after one that is not counted.
    """
    vocabulary = int(model.module.config.vocab_size)  # type: ignore[union-attr, arg-type]
    ids = torch.randint(vocabulary, (1, prompt), generator=torch.Generator().manual_seed(0))
    first: list[float] = []
    all_: list[float] = []
    for _ in range(rounds + 1):
        for taken, new in ((first, 1), (all_, 1 + count)):
            begin = time.perf_counter()
            model.extend(ids, new, to_the_end=True)
            taken.append(time.perf_counter() - begin)
    gaps = [b - a for a, b in zip(first[1:], all_[1:], strict=True)]
    return Speed(prompt / statistics.median(first[1:]), count / max(statistics.median(gaps), 1e-9))


def as_dense(model: LanguageModel, dtype: torch.dtype) -> Any:
    """A copy of a language model whose packed layers are torch's own on the same numbers, in a dtype."""
    other = copy.copy(model)
    other.module = copy.deepcopy(model.module)
    for name, module in list(other.module.named_modules()):
        if isinstance(module, Linear | Embedding | Convolution):
            put(other.module, name, dense_module(module))
    other.module.to(dtype)
    return other


def streamed_nbytes(module: nn.Module) -> int:
    """Bytes of weights that one decoding step reads: everything but the rows of the embedding that it leaves out."""
    total, seen = 0, set()
    for each in module.modules():
        if isinstance(each, Linear):
            layout = each.weight.layout()
            weight = 4 * each.weight.shape.numel() if isinstance(layout, str) else layout.nbytes
            total += 0 if id(each.weight) in seen else weight
            seen.add(id(each.weight))
        elif not isinstance(each, nn.Embedding | Embedding):
            for parameter in each._parameters.values():
                if parameter is not None and parameter.data_ptr() not in seen:
                    seen.add(parameter.data_ptr())
                    total += parameter.numel() * parameter.element_size()
    return total


def multiplied(module: nn.Module, head: bool) -> int:
    """Weights that every token is multiplied with, with or without those of the output layer."""
    layers = [m for n, m in module.named_modules() if isinstance(m, Linear | nn.Linear) and (head or n != "lm_head")]
    return sum(m.in_features * m.out_features for m in layers)


def read_bandwidth(nbytes: int = 1 << 28, rounds: int = 5) -> float:
    """Bytes a second that torch's number of threads read from memory together, the best of the rounds."""
    threads = torch.get_num_threads()
    data = torch.ones(nbytes // 4)
    parts = data.chunk(threads)
    module: Any = extension("lowbit._cpu")

    def read(part: Tensor) -> None:
        if module is None:
            float(part.dot(part))
        else:
            module.read_all(part.data_ptr(), part.numel() * 4)

    if module is None:
        return nbytes / _least(lambda: read(data), rounds)
    with ThreadPoolExecutor(threads) as pool:
        return nbytes / _least(lambda: list(pool.map(read, parts)), rounds)


def product_peak(dtype: torch.dtype = torch.float32, size: int = 1024, rounds: int = 5) -> float:
    """Operations a second of torch's matrix product of two square matrices, the best of the rounds."""
    a, b = torch.randn(2, size, size).to(dtype)
    out = torch.empty_like(a)
    return 2 * size**3 / _least(lambda: torch.mm(a, b, out=out), rounds)


def _least(work: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return min(taken[1:])
