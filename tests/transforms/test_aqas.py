"""The search sees both errors at once."""

import torch

from lowbit.philox import Key
from lowbit.testing.transforms import edges, statistics
from lowbit.transforms.aqas import AQAS
from lowbit.transforms.loss import output_loss
from lowbit.transforms.smoothquant import SmoothQuant
from lowbit.transforms.transform import Scaled


def test_no_worse_than_smoothquant_at_any_exponent_nor_than_nothing():
    edge, X = edges()[0]
    stats = statistics(AQAS(), X)
    change = AQAS().fit(edge, stats, Key())
    found = output_loss(edge, stats["rows"], change)
    assert found < output_loss(edge, stats["rows"], Scaled(torch.ones(edge.channels)))
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert found <= output_loss(edge, stats["rows"], SmoothQuant(alpha).fit(edge, stats, Key()))
