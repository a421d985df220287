"""Checks that every quantizer must pass, a user's own included: ``check_quantizer(quantizer)``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lowbit.checkpoint.layout import Manifest, read_manifest
from lowbit.checkpoint.reading import Tensors
from lowbit.checkpoint.writing import Writer
from lowbit.errors import ShapeError
from lowbit.kernels.op import REFERENCE, backend
from lowbit.nn.packed import PackedWeight
from lowbit.philox import Key, noise
from lowbit.quantizers.emulate import fake_quantize
from lowbit.quantizers.grid import QTensor
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.scheme import Scheme
from lowbit.quantizers.weight import Weight
from lowbit.testing.formats import same_bits
from lowbit.threads import one_thread

KEY = Key(7, "noise")

SHAPES: tuple[tuple[int, ...], ...] = ((4, 256), (1, 128), (2, 3, 128), (128, 384), (5, 7), (9,), (3, 0))


#: large enough for torch to use its threads
LARGE: tuple[tuple[int, ...], ...] = ((64, 1024), (65536,), (4, 16, 1024))


def sample(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Normal numbers with a few large ones, the same on every machine with the same log and cosine."""
    count = torch.Size(shape).numel()
    words = noise(Key(seed, "sample"), (3, count)).double() / 2.0**32
    x = torch.sqrt(-2 * torch.log1p(-words[0])) * torch.cos(2 * torch.pi * words[1])
    return torch.where(words[2] < 0.01, 8 * x, x).float().reshape(tuple(shape))


def words_for(quantizer: Quantizer, x: Tensor) -> Tensor | None:
    """Noise for quantizers whose rounding needs it."""
    rounding = getattr(quantizer, "rounding", None)
    return noise(KEY, tuple(x.shape)) if rounding is not None and rounding.noisy else None


def accepted(quantizer: Quantizer, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[tuple[int, ...]]:
    """Those of the shapes that the quantizer's blocks fit.

    Raises:
        AssertionError: it takes none of them.
    """
    fitting = []
    for shape in shapes:
        try:
            quantizer.nbytes(shape)
        except ShapeError:
            continue
        fitting.append(shape)
    if not fitting:
        raise AssertionError(f"{quantizer} takes none of the shapes {list(shapes)}")
    return fitting


def digest(q: QTensor) -> str:
    """A digest of every packed byte and its name."""
    total = hashlib.sha256()
    for name, part in sorted(q.packed().items()):
        total.update(name.encode() + str(part.dtype).encode() + part.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def rows_are_independent(quantizer: Quantizer) -> bool:
    """Whether a part of the rows is quantized as in the whole: blocks within a row, no scale over several."""
    if not isinstance(quantizer, Scheme) or quantizer.center is not None:
        return False
    if quantizer.scaling is None:
        return True
    nested = (quantizer.scale_quantizer, quantizer.offset_quantizer)
    return (
        isinstance(quantizer.blocks.size, tuple)
        and len(quantizer.blocks.size) == 1
        and all(q is None or rows_are_independent(q) for q in nested)
    )


def check_quantizer(quantizer: Quantizer, shapes: Sequence[tuple[int, ...]] = SHAPES) -> None:
    """Everything that a quantizer owes its users; raises AssertionError with the first thing that is wrong.

    Args:
        shapes: those that the blocks do not fit are left out; at least one must fit.
    """
    for shape in accepted(quantizer, shapes):
        x = sample(shape)
        with one_thread():
            check_packing(quantizer, x)
            check_fake(quantizer, x)
            check_zeros(quantizer, shape)
            check_not_finite(quantizer, shape)
            check_rows(quantizer, x)
            check_backends(quantizer, shape)
    check_threads(quantizer, sample(accepted(quantizer, LARGE)[0]))


def check_packing(quantizer: Quantizer, x: Tensor) -> None:
    """unpack(pack(q)) is q bit for bit, and nbytes says how many bytes there are."""
    shape = tuple(x.shape)
    q = quantizer.quantize(x, noise=words_for(quantizer, x))
    parts = q.packed()
    taken = sum(p.numel() * p.element_size() for p in parts.values())
    if taken != quantizer.nbytes(shape) or taken != q.nbytes:
        raise AssertionError(f"shape {shape}: nbytes says {quantizer.nbytes(shape)} and {q.nbytes}, the parts have {taken}")
    back = quantizer.unpack(parts, shape)
    if not torch.equal(back.codes, q.codes) or back.codes.dtype != q.codes.dtype:
        raise AssertionError(f"shape {shape}: unpacked codes differ")
    if not bool(same_bits(back.dequantize(), q.dequantize()).all()):
        raise AssertionError(f"shape {shape}: the unpacked tensor decodes to other numbers")
    again = back.packed()
    if parts.keys() != again.keys() or not all(torch.equal(parts[k], again[k]) for k in parts):
        raise AssertionError(f"shape {shape}: packing the unpacked tensor gives other bytes")


def check_saving(quantizer: Quantizer, folder: Path, shapes: Sequence[tuple[int, ...]] = ((64, 128), (64, 256))) -> None:
    """A checkpoint holds it: written to a folder under its spec string and read again, codes and numbers are the same."""
    x = sample(accepted(quantizer, shapes)[0])
    q = quantizer.quantize(x, noise=words_for(quantizer, x))
    writer = Writer(folder, Manifest("builtin", "check", {}))
    writer.add_packed("layer", "Linear", PackedWeight.of(Weight((q,), (quantizer,))))
    writer.finish()
    manifest = read_manifest(folder)
    parts = Tensors(folder, manifest).starting("layer.weight.")
    (back,) = PackedWeight.described(parts, x.shape, manifest.layers["layer"]["terms"]).unpacked().terms
    if not isinstance(back, QTensor) or not torch.equal(back.codes, q.codes):
        raise AssertionError("codes that come out of a checkpoint differ from those that went in")
    if not bool(same_bits(back.dequantize(), q.dequantize()).all()):
        raise AssertionError("numbers that come out of a checkpoint differ from those that went in")


def check_fake(quantizer: Quantizer, x: Tensor) -> None:
    """fake_quantize is quantize and dequantize; float32 comes out whatever goes in, rounded once to the dtype of the input."""
    words = words_for(quantizer, x)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        y = x.to(dtype)
        direct = quantizer.quantize(y, noise=words).dequantize()
        fake = fake_quantize(y, quantizer, key=KEY)
        if direct.dtype != torch.float32 or fake.dtype != dtype or direct.shape != x.shape:
            raise AssertionError(f"{dtype} gives {direct.dtype} of {tuple(direct.shape)} and {fake.dtype}")
        if not torch.equal(fake, direct.to(dtype)):
            raise AssertionError(f"fake_quantize of {dtype} is not quantize(x).dequantize()")
        if not torch.equal(direct, quantizer.quantize(y.float(), noise=words).dequantize()):
            raise AssertionError(f"{dtype} input is quantized otherwise than the same numbers in float32")


def check_zeros(quantizer: Quantizer, shape: tuple[int, ...]) -> None:
    """A tensor of zeros decodes to zeros."""
    zeros = torch.zeros(shape)
    got = quantizer.quantize(zeros, noise=words_for(quantizer, zeros)).dequantize()
    if bool((got != 0).any()):
        raise AssertionError(f"shape {shape}: zeros decode to {got[got != 0][0]:g}")


def check_not_finite(quantizer: Quantizer, shape: tuple[int, ...]) -> None:
    """An element that is NaN or Inf decodes to something that is not finite, where there is a scale to say so."""
    if 0 in shape or getattr(quantizer, "scaling", "its own grid") is None:
        return
    for bad in (float("nan"), float("inf")):
        x = sample(shape)
        x.view(-1)[-1] = bad
        got = quantizer.quantize(x, noise=words_for(quantizer, x)).dequantize().reshape(-1)[-1]
        if not bool(torch.isnan(got)):
            raise AssertionError(f"shape {shape}: {bad} decodes to {got:g}; its block should be NaN")


def hard(kind: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers of the kinds that kernels get wrong: tiny, subnormal, huge, equal, zeros of both signs, on midpoints, with NaN and Inf."""
    x = sample(shape, 1)
    place = torch.arange(x.numel()).reshape(shape)
    match kind:
        case "tiny":
            x = x * 2.0**-126
        case "subnormal":
            x = x * 2.0**-146
        case "huge":
            x = (x.double() * 1e38).clamp(-3.4e38, 3.4e38).float()
        case "equal":
            x = torch.full(shape, -0.7)
        case "zeros":
            x = torch.where(x > 0, 0.0, -0.0)
        case "half zeros":
            x = torch.where(place % 64 < 32, x, -0.0)
        case "quarters":
            x = (4 * x).round() / 4
        case "powers of two":
            x = torch.exp2((3 * x).round()).copysign(x)
        case "not finite":
            x = torch.where(place % 193 == 5, torch.tensor([torch.nan, torch.inf, -torch.inf])[place % 3], x)
    return x


HARD = ("random", "tiny", "subnormal", "huge", "equal", "zeros", "half zeros", "quarters", "powers of two", "not finite")


def check_backends(quantizer: Quantizer, shape: tuple[int, ...]) -> None:
    """The kernels that accept it give the bits of the reference: codes, stored scales, decoded numbers, fake_quantize."""
    for kind in HARD:
        x = hard(kind, shape)
        fast = quantizer.quantize(x, noise=words_for(quantizer, x))
        fake, numbers, parts = fake_quantize(x, quantizer, key=KEY), fast.dequantize(), fast.packed()
        with backend(REFERENCE):
            slow = quantizer.quantize(x, noise=words_for(quantizer, x))
            expected, stored = slow.dequantize(), slow.packed()
        if not torch.equal(fast.codes, slow.codes):
            i = int((fast.codes != slow.codes).flatten().nonzero()[0])
            got, want = (int(q.codes.flatten()[i]) for q in (fast, slow))
            raise AssertionError(
                f"shape {shape}, {kind}: element {i}, {x.flatten()[i].item()!r}, gets code {got}, the reference gives {want}"
            )
        if parts.keys() != stored.keys() or not all(_same(parts[k], stored[k]) for k in parts):
            raise AssertionError(f"shape {shape}, {kind}: stored parts differ from those of the reference")
        if not bool((same_bits(numbers, expected) & same_bits(fake, expected)).all()):
            raise AssertionError(f"shape {shape}, {kind}: decoded numbers differ from those of the reference")


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(same_bits(a, b).all()) if a.dtype == torch.float32 else torch.equal(a, b)


def check_threads(quantizer: Quantizer, x: Tensor) -> None:
    """The same bytes with 1 and 2 threads."""
    with one_thread():
        found = [digest(quantizer.quantize(x, noise=words_for(quantizer, x)))]
        torch.set_num_threads(2)  # what was before comes back on leaving
        found.append(digest(quantizer.quantize(x, noise=words_for(quantizer, x))))
    if found[0] != found[1]:
        raise AssertionError(f"shape {tuple(x.shape)}: 1 and 2 threads give different bytes")


def check_rows(quantizer: Quantizer, x: Tensor) -> None:
    """Rows quantized apart have the codes and numbers that they have together, where no scale crosses rows."""
    if not rows_are_independent(quantizer) or x.ndim < 2 or len(x) < 2:
        return
    words = words_for(quantizer, x)
    whole = quantizer.quantize(x, noise=words)
    at = max(1, len(x) // 3)
    for part in (slice(0, at), slice(at, None)):
        q = quantizer.quantize(x[part], noise=None if words is None else words[part])
        if not torch.equal(q.codes, whole.codes[part]) or not torch.equal(q.dequantize(), whole.dequantize()[part]):
            raise AssertionError(f"shape {tuple(x.shape)}: rows {part} alone are quantized otherwise than with the others")
