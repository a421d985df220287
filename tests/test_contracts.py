"""The contracts, on every member that the catalogue holds: a new file in a family is tested without being listed anywhere."""

import pytest
import torch

from lowbit import catalog
from lowbit.blocks import Blocks
from lowbit.formats.minifloat import float8_e8m0fnu
from lowbit.kernels.op import REFERENCE, backend
from lowbit.philox import Key, noise
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.quantizers.spec import quantizer as parse
from lowbit.quantizers.spec import text
from lowbit.scaling.absmax import absmax
from lowbit.scaling.power_of_two import PowerOfTwo
from lowbit.scaling.scaling import Rule
from lowbit.testing.formats import check_format, probes, same_bits
from lowbit.testing.quantizers import check_quantizer, check_saving
from lowbit.testing.roundings import check_rounding
from lowbit.testing.scalings import check_scaling
from lowbit.testing.transforms import check_transform


def members(kind):
    return [pytest.param(entry, id=entry.name) for entry in catalog.entries(kind)]


@pytest.mark.parametrize("entry", members("format"))
def test_formats(entry):
    """Codes round-trip, numbers stay, facts are derived, every rounding is exact; see ``lowbit.testing.formats``."""
    if entry.thing.bits > 8:
        check_format(entry.thing, per_check=1000, dtypes=(torch.float32,))
    else:
        check_format(entry.thing, per_check=1500)


@pytest.mark.parametrize("entry", members("format"))
def test_kernels_encode_every_format_as_the_reference(entry):
    """Under every rounding and overflow, with and without a scale, at each number, midpoint and end."""
    fmt = entry.thing
    x = probes(fmt)[:6000]
    some = ("nearest_even", "toward_zero", "stochastic")  # 2**16 exact cut points take a third of a second
    for rounding in (e.thing for e in catalog.entries("rounding") if fmt.bits <= 8 or e.name in some):
        words = noise(Key(1), tuple(x.shape)) if rounding.noisy else None
        for overflow in ("saturate", "special"):
            for q in (cast(fmt, overflow, rounding), Scheme(fmt, Blocks((4,), ragged=True), absmax, rounding, overflow)):
                fast = q.quantize(x, noise=words)
                numbers = fast.dequantize()
                with backend(REFERENCE):
                    slow = q.quantize(x, noise=words)
                    assert torch.equal(fast.codes, slow.codes), (rounding.name, overflow)
                    assert bool(same_bits(numbers, slow.dequantize()).all()), (rounding.name, overflow)


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
    """Packing is lossless, bytes are counted, zeros and NaN have answers, threads and backends agree; see ``lowbit.testing.quantizers``."""
    check_quantizer(entry.thing)


@pytest.mark.parametrize("entry", members("quantizer"))
def test_a_checkpoint_holds_every_quantizer(entry, tmp_path):
    """Written under its spec string and read again, codes and numbers are the same."""
    check_saving(entry.thing, tmp_path)
    assert parse(text(entry.thing)) == entry.thing


@pytest.mark.parametrize("entry", members("scaling"))
def test_scalings_are_values(entry):
    """Equal, hashable and named as registered, so that schemes compare and print."""
    one, two = (entry.thing() if isinstance(entry.thing, type) else entry.thing for _ in range(2))
    assert one == two and hash(one) == hash(two) and str(one) == entry.name and isinstance(one, Rule)


def stable(quantizer):
    """Casts, and power-of-two scales kept as they are under formats that are symmetric: there a second quantization changes nothing.

    Elsewhere it may: (6 * s) / 6 is not always s in float32, a stored scale is rounded, a mean moves, a search finds another optimum,
    and -2 of mxint8 lies in the binade above its largest number.
    """
    if not isinstance(quantizer, Scheme) or quantizer.center is not None or quantizer.rounding.noisy:
        return False
    if quantizer.scaling is None:
        return True
    exact = quantizer.scale_quantizer is None or quantizer.scale_quantizer == cast(float8_e8m0fnu)
    return isinstance(quantizer.scaling, PowerOfTwo) and exact and quantizer.format.max == -quantizer.format.min


@pytest.mark.parametrize("entry", [entry for entry in members("quantizer") if stable(entry.values[0].thing)])
def test_a_second_quantization_changes_nothing(entry):
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    once = entry.thing.quantize(x).dequantize()
    assert torch.equal(entry.thing.quantize(once).dequantize(), once)


@pytest.mark.parametrize("entry", members("transform"))
def test_transforms(entry):
    """The function stays, fitting is repeatable, changes can be undone and stored; see ``lowbit.testing.transforms``."""
    check_transform(entry.thing())
