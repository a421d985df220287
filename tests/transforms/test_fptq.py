"""Logarithmic equalization: the formula and where it applies."""

import pytest
import torch

from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.transforms.fptq import FPTQ
from lowbit.transforms.transform import Edge

EDGE = Edge("e", (torch.ones(2, 3),), (quantizer("int8"),), None, "norm", torch.arange(3))


def test_every_channel_reaches_the_logarithm_of_its_range():
    reach = torch.tensor([2.0, 30.0, 126.0])
    change = FPTQ().fit(EDGE, {"absmax": reach}, Key())
    torch.testing.assert_close(change.online(reach), torch.log2(2 + reach))


@pytest.mark.parametrize(("largest", "served"), [(14.9, False), (15.1, True), (149.0, True), (151.0, False)])
def test_only_between_the_bounds(largest, served):
    assert (FPTQ().fit(EDGE, {"absmax": torch.tensor([1.0, 2.0, largest])}, Key()) is not None) == served


def test_a_dead_channel_keeps_its_scale():
    assert float(FPTQ().fit(EDGE, {"absmax": torch.tensor([0.0, 2.0, 20.0])}, Key()).scale[0]) == 1.0
