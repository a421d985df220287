"""The pre-shifted exponent bias, against the formula in plain Python."""

import math

import torch

from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.transforms.llm_fp4 import LLMFP4
from lowbit.transforms.transform import Edge


def edge(channels, classes=None):
    return Edge(
        "e", (torch.randn(3, channels),), (quantizer("float16"),), None, "norm", torch.arange(channels) if classes is None else classes
    )


def test_the_shifts_are_those_of_the_paper():
    reach = torch.rand(400, generator=torch.Generator().manual_seed(0)).mul(12).sub(6).exp2()
    for E, M in ((2, 1), (3, 2), (1, 3)):
        b = [2**E - 1 + math.log2(2 - 2.0**-M) - math.log2(float(a)) for a in reach]
        low = math.floor(min(b) + 0.5)
        n = [min(math.floor(x + 0.5), low + 2**E - 1) - low for x in b]
        change = LLMFP4(E, M).fit(edge(400), {"absmax": reach}, Key())
        assert change.scale.tolist() == [2.0**-k for k in n]


def test_nothing_is_rounded():
    """With float16 weights, outputs before and after are the same bits: the scales are powers of two."""
    reach = torch.tensor([0.1, 3.0, 20.0, 0.0])
    there = edge(4)
    change = LLMFP4().fit(there, {"absmax": reach}, Key())
    x = torch.randn(64, 4)
    W = there.weights[0]
    assert torch.equal(change.online(x) * change.consumer(W, None)[0][0], x * W[0])


def test_channels_of_one_source_are_shifted_alike():
    change = LLMFP4().fit(edge(4, torch.tensor([0, 1, 0, 1])), {"absmax": torch.tensor([1.0, 8.0, 8.0, 1.0])}, Key())
    assert change.scale[0] == change.scale[2]
    assert change.scale[1] == change.scale[3]
