"""How much rounding loses: squared errors of formats and quantizers on numbers of known distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from lowbit import catalog, philox
from lowbit.blocks import Blocks
from lowbit.errors import LowbitError
from lowbit.formats.format import Format
from lowbit.formats.table import TableFormat
from lowbit.philox import Key
from lowbit.quantizers.quantizer import Quantizer, bits_per_element
from lowbit.quantizers.scheme import Scheme, cast
from lowbit.scaling.absmax import absmax
from lowbit.threads import one_thread

Array = NDArray[np.float64]

SAMPLE = (64, 4096)  # numbers that errors in blocks are measured on
QUANTILES = 1 << 18  # numbers that one best scale is sought for
DISTRIBUTIONS = ("Gaussian", "Laplace", "Student-t(5)")


def inverse(distribution: str, p: Array) -> Array:
    """The number below which a share p of a distribution lies; unit scale, not unit variance.

    Raises:
        KeyError: no such distribution.
    """
    ways = {
        "Gaussian": special.ndtri,
        "Laplace": lambda p: np.where(p < 0.5, np.log(2 * np.minimum(p, 0.5)), -np.log(2 - 2 * np.maximum(p, 0.5))),
        "Student-t(5)": lambda p: special.stdtrit(5, p),
    }
    return np.asarray(ways[distribution](p), dtype=np.float64)


@lru_cache(maxsize=8)
def sample(distribution: str) -> torch.Tensor:
    """Random numbers of a distribution, (64, 4096) float32, the same on every machine up to the last bit; not to be changed."""
    if distribution == "Gaussian":
        return gaussian()
    words = philox.noise(Key(0, distribution, "show"), SAMPLE).double().numpy()
    return torch.from_numpy(inverse(distribution, (words + 0.5) / 2.0**32)).float()


@lru_cache(maxsize=1)
def gaussian() -> torch.Tensor:
    """Standard normal numbers, as ``sample``."""
    with one_thread():
        words = philox.noise(Key(0, "gaussian", "show"), SAMPLE)
        return torch.special.ndtri((words.double() + 0.5) / 2.0**32).float()


def relative_mse(value: Quantizer, x: torch.Tensor) -> float:
    """||x - q(x)||^2 / ||x||^2."""
    noisy = getattr(getattr(value, "rounding", None), "noisy", False)
    noise = philox.noise(Key(0, "gaussian", "rounding"), tuple(x.shape)) if noisy else None
    with one_thread():
        error = value.quantize(x, noise=noise).dequantize().double() - x.double()
        return float(error.square().sum() / x.double().square().sum())


def sqnr_db(mse: float) -> float:
    """Signal to quantization noise ratio; infinite for no error."""
    return -10 * math.log10(mse) if mse > 0 else math.inf


def format_errors(fmt: Format) -> dict[str, float]:
    """Relative squared error on Gaussian numbers as a cast, and with absmax scales in float32; empty without negative numbers."""
    if fmt.min >= 0:
        return {}
    ways: dict[str, Quantizer] = {"cast": cast(fmt)}
    ways |= {str(b): Scheme(fmt, b, absmax) for b in (Blocks((16,)), Blocks((32,)), Blocks((128,)), Blocks((0,)))}
    x = gaussian()
    return {way: relative_mse(each, x) for way, each in ways.items()}


# ---- one scale, the best one


@dataclass(frozen=True)
class Sums:
    """Sorted numbers and the sums of the first k of them and of their squares: the error of any scale in a few searches."""

    x: Array
    first: Array
    second: Array

    @classmethod
    def of(cls, x: Array) -> Sums:
        ordered = np.sort(x)
        return cls(ordered, *(np.concatenate([[0.0], np.cumsum(ordered**k)]) for k in (1, 2)))

    def relative_mse(self, scale: float, line: Array, cuts: Array) -> float:
        """Sum over cells of (x - s * v)^2, multiplied out, over the sum of x^2."""
        edges = np.concatenate([[0], np.searchsorted(self.x, cuts * scale), [len(self.x)]])
        count, first = np.diff(edges), np.diff(self.first[edges])
        v = line * scale
        return float((self.second[-1] - 2 * (v @ first) + (v * v) @ count) / self.second[-1])


@lru_cache(maxsize=8)
def quantiles(distribution: str) -> Sums:
    """The quantiles at (i + 1/2) / n: a sample without chance."""
    return Sums.of(inverse(distribution, (np.arange(QUANTILES) + 0.5) / QUANTILES))


def best_scale(fmt: TableFormat, numbers: Sums) -> tuple[float, float]:
    """The scale with the least squared error for all numbers, and that error relative to their squares; of several tables the best.

    Tried are scales that clip the largest number at up to 1 / 64 of itself, and those that lead it down towards the smallest number of the
    format, in steps of a quarter of a binade; then finer ones around the best.
    """
    least = (1.0, math.inf)
    for table, found in enumerate(fmt.lines):
        line = np.array(found.values)
        cuts = fmt.cutpoints(dtype=torch.float64, table=table).numpy()
        top, smallest = np.abs(line).max(), np.abs(line[line != 0]).min()
        start = math.log2(max(abs(numbers.x[0]), abs(numbers.x[-1])) / top)
        widest = min(20.0, math.log2(top / smallest)) if len(line) <= 4096 else 1.0
        trials = start + np.arange(-6.0 if len(line) <= 4096 else 0.0, widest + 0.25, 0.25)
        for width in (0.25, 0.03125, 0.0):
            errors = [numbers.relative_mse(2.0**t, line, cuts) for t in trials]
            at = int(np.argmin(errors))
            least = min(least, (2.0 ** trials[at], errors[at]), key=lambda pair: pair[1])
            trials = trials[at] + width * np.arange(-8, 9) / 8
    return least


# ---- everything of the same number of bits


@dataclass(frozen=True)
class Row:
    """Relative squared errors, one a distribution.

    Args:
        name: a format, or a quantizer.
        own: whether this is what is shown.
        bits: an element, scales included; those of the code for one scale.
        best: with the best scale for all numbers; empty for quantizers.
        blocks: with absmax scales in blocks, or as a quantizer has it; NaN where it does not take such a tensor.
    """

    name: str
    own: bool
    bits: float
    best: tuple[float, ...]
    blocks: tuple[float, ...]


def signed(fmt: Format) -> bool:
    """Whether a format is a table with numbers of both signs."""
    return isinstance(fmt, TableFormat) and fmt.min < 0 < fmt.max


def in_blocks(value: Quantizer) -> tuple[float, ...]:
    """The error of each distribution; NaN where the sample does not fit."""
    try:
        return tuple(relative_mse(value, sample(d)) for d in DISTRIBUTIONS)
    except LowbitError:
        return (math.nan,) * len(DISTRIBUTIONS)


def format_row(name: str, fmt: TableFormat, blocks: Blocks, own: bool) -> Row:
    """A format at the best scale, and with absmax scales in float32."""
    best = tuple(best_scale(fmt, quantiles(d))[1] for d in DISTRIBUTIONS)
    return Row(name, own, float(fmt.bits), best, in_blocks(Scheme(fmt, blocks, absmax)))


def comparison(fmt: Format, blocks: Blocks, quantizer: tuple[str, Quantizer] | None = None) -> list[Row]:
    """A format among all registered ones of as many bits; with a quantizer also among the quantizers within half a bit of it.

    Formats without numbers of both signs are left out, and so is everything for such a format. The least error on Gaussian numbers comes
    first: at the best scale, or in blocks where a quantizer is shown.
    """
    if not signed(fmt):
        return []
    chosen = {e.thing.identity: (e.name, e.thing) for e in catalog.entries("format") if e.thing.bits == fmt.bits and signed(e.thing)}
    chosen.setdefault(fmt.identity, (fmt.name, fmt))
    rows = [format_row(name, each, blocks, each == fmt and quantizer is None) for name, each in chosen.values()]
    if quantizer is None:
        return sorted(rows, key=lambda r: r.best[0])
    return _by_blocks(rows + quantizer_rows(*quantizer))


def quantizer_rows(name: str, value: Quantizer) -> list[Row]:
    """A quantizer, and the registered ones whose bits an element differ by at most a half."""
    bits = bits_per_element(value, SAMPLE)
    chosen = {name: value} | {e.name: e.thing for e in catalog.entries("quantizer") if e.thing != value}
    costs = {n: _bits(q) for n, q in chosen.items()}
    return _by_blocks([Row(n, n == name, costs[n], (), in_blocks(q)) for n, q in chosen.items() if abs(costs[n] - bits) <= 0.5])


def _bits(value: Quantizer) -> float:
    try:
        return bits_per_element(value, SAMPLE)
    except LowbitError:
        return math.inf


def _by_blocks(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda r: math.inf if math.isnan(r.blocks[0]) else r.blocks[0])
