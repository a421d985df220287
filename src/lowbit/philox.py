"""Philox4x32-10: random numbers that depend on a key and on the index of an element, and on nothing else.

Key = 64 bits of BLAKE2b over (seed, tensor name, role, step, rank). Element i of the unsharded tensor
takes word i mod 4 of the block with counter i div 4, so noise does not depend on batch, shard or thread.

Source: Salmon, Moraes, Dror, Shaw (2011), Parallel Random Numbers: As Easy as 1, 2, 3, section 3.3.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
MASK = 0xFFFFFFFF


class Key(NamedTuple):
    """What makes noise differ: a seed, whose tensor it is, what for, when, and on which rank (where data differ)."""

    seed: int = 0
    tensor: str = ""
    role: str = ""
    step: int = 0
    rank: int = 0

    def words(self) -> tuple[int, int]:
        """The key as two 32-bit words."""
        text = "\0".join(map(str, self)).encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _multiply(constant: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of constant * x; x holds 32-bit words in int64. The split keeps products below 2**63."""
    low = (x & 0xFFFF) * constant
    high = (x >> 16) * constant
    middle = (low >> 16) + high
    return middle >> 16, ((middle << 16) | (low & 0xFFFF)) & MASK


def block(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> Tensor:
    """Ten rounds on counters of four 32-bit words each (int64 tensors of one shape).

    Shapes:
        result  (*shape, 4) int64, each in [0, 2**32)
    """
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(M0, a)
        high1, low1 = _multiply(M1, c)
        a, b, c, d = high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return torch.stack((a, b, c, d), -1)


def noise(key: Key, shape: tuple[int, ...] | torch.Size, *, start: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """32-bit noise words for a tensor of this shape whose first element has index ``start`` in the unsharded tensor.

    Shapes:
        result  ``shape``, int64, uniform over [0, 2**32)
    """
    count = 1
    for n in shape:
        count *= n
    index = torch.arange(start // 4, (start + count + 3) // 4, dtype=torch.int64, device=device)
    zero = torch.zeros_like(index)
    words = block((index & MASK, index >> 32, zero, zero), key.words()).flatten()
    return words[start % 4 : start % 4 + count].reshape(shape)
