"""The contracts, on every member that the catalogue holds: a new file in a family is tested without being listed anywhere."""

import pytest
import torch

from lowbit import catalog
from lowbit.scaling.scaling import Rule
from lowbit.testing.formats import check_format
from lowbit.testing.quantizers import check_quantizer
from lowbit.testing.roundings import check_rounding
from lowbit.testing.scalings import check_scaling


def members(kind):
    return [pytest.param(entry, id=entry.name) for entry in catalog.entries(kind)]


@pytest.mark.parametrize("entry", members("format"))
def test_formats(entry):
    """Codes round-trip, numbers stay, facts are derived, every rounding is exact; see ``lowbit.testing.formats``."""
    if entry.thing.bits > 8:
        check_format(entry.thing, per_check=1000, dtypes=(torch.float32,))
    else:
        check_format(entry.thing, per_check=1500)


@pytest.mark.parametrize("entry", members("rounding"))
def test_roundings(entry):
    """Numbers stay, others go to a neighbour, monotone or unbiased; see ``lowbit.testing.roundings``."""
    check_rounding(entry.thing)


@pytest.mark.parametrize("entry", members("scaling"))
def test_scalings(entry):
    """Positive or zero, finite on finite data, NaN on the rest, block by block; see ``lowbit.testing.scalings``."""
    check_scaling(entry.thing() if isinstance(entry.thing, type) else entry.thing)


@pytest.mark.parametrize("entry", members("quantizer"))
def test_quantizers(entry):
    """Packing is lossless, bytes are counted, zeros and NaN have their answers, threads do not matter; see ``lowbit.testing.quantizers``."""
    check_quantizer(entry.thing)


@pytest.mark.parametrize("entry", members("scaling"))
def test_scalings_are_values(entry):
    """Equal, hashable and named as registered, so that schemes compare and print."""
    one, two = (entry.thing() if isinstance(entry.thing, type) else entry.thing for _ in range(2))
    assert one == two and hash(one) == hash(two) and str(one) == entry.name and isinstance(one, Rule)


#: quantizing what was decoded may change it: (6 * s) / 6 is not always s in float32, a rounded scale differs, a mean moves
IDEMPOTENT_SCALES = {"floor", "ceil", "even", "rceil", "None"}


@pytest.mark.parametrize("entry", members("quantizer"))
def test_a_second_quantization_changes_little_or_nothing(entry):
    """Exactly nothing under power-of-two scales (but for an element that reaches -2 in mxint8), next to nothing under others."""
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    q = entry.thing
    once = q.quantize(x).dequantize()
    twice = q.quantize(once).dequantize()
    exact = str(getattr(q, "scaling", "its own grid")) in IDEMPOTENT_SCALES and q.format.max == -q.format.min
    if exact:
        assert torch.equal(twice, once)
    else:
        assert (twice - once).square().sum() <= 0.3 * (once - x).square().sum()
