"""The contract of a cache of keys and values: what is kept of the tokens seen, and in how many bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor

from lowbit import method
from lowbit.errors import ShapeError
from lowbit.quantizers.quantizer import Quantizer
from lowbit.quantizers.weight import Form, Weight, forms, unpack


class KVCache(ABC):
    """How keys and values are kept. Caches are frozen dataclasses: their fields are their whole configuration.

    Attributes:
        recent: tokens, the last ones, that stay as they are; older ones are quantized ``group`` at a time.
        group: tokens that are quantized together.
    """

    recent: int
    group: int

    @abstractmethod
    def quantizers(self, layer: int) -> tuple[Quantizer | None, Quantizer | None]:
        """Of a layer's keys and values, each (batch, heads, tokens, head_dim); None keeps them as they are."""

    def store(self, layer: int) -> Store:
        """An empty store for a layer."""
        keys, values = self.quantizers(layer)
        return Store(Half(keys, self.recent, self.group), Half(values, self.recent, self.group))

    def check(self, head_dim: int, layers: int) -> None:
        """Refuse before any work what does not fit.

        Raises:
            ShapeError: the blocks of a quantizer do not divide a group of tokens of this head_dim.
        """
        for layer in range(layers):
            for what, quantizer in zip(("keys", "values"), self.quantizers(layer), strict=True):
                if quantizer is not None:
                    try:
                        quantizer.nbytes((1, 1, self.group, head_dim))
                    except ShapeError as error:
                        raise ShapeError(f"{text(self)}: {self.group} tokens of {what} with head_dim {head_dim}: {error}") from None


class Half:
    """The keys or the values of one layer: packed pieces of ``group`` tokens, then what is as it was."""

    def __init__(self, quantizer: Quantizer | None, recent: int, group: int):
        self.quantizer, self.recent, self.group = quantizer, recent, group
        self.packed: list[tuple[dict[str, Tensor], tuple[Form, ...], tuple[int, ...]]] = []
        self.rest: Tensor | None = None

    def append(self, x: Tensor) -> Tensor:
        """Add new tokens (batch, heads, new, head_dim); all tokens as attention sees them, the new ones as they are.

        What is older than the last ``recent`` tokens is quantized for the next call.

        Raises:
            ShapeError: another batch than before.
        """
        if self.rest is not None and len(self.rest) != len(x):
            raise ShapeError(f"the cache holds {len(self.rest)} sequences, but the input has {len(x)}")
        pieces = [unpack(form, parts, shape).dequantize().to(x.dtype) for parts, form, shape in self.packed]
        rest = x if self.rest is None else torch.cat((self.rest, x), 2)
        seen = torch.cat((*pieces, rest), 2) if pieces else rest
        while self.quantizer is not None and rest.shape[2] - self.recent >= self.group:
            old, rest = rest[:, :, : self.group], rest[:, :, self.group :]
            weight = Weight((self.quantizer.quantize(old.float().contiguous()),), (self.quantizer,))
            self.packed.append((weight.packed(), tuple(forms(weight)), tuple(old.shape)))
        self.rest = rest.clone() if rest.data_ptr() != x.data_ptr() and rest.shape[2] < seen.shape[2] else rest
        return seen

    @property
    def length(self) -> int:
        """Tokens held."""
        return sum(shape[2] for *_, shape in self.packed) + (0 if self.rest is None else self.rest.shape[2])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        whole = [] if self.rest is None else [self.rest]
        return sum(t.numel() * t.element_size() for t in [*whole, *(t for parts, *_ in self.packed for t in parts.values())])


class Store:
    """Keys and values of one layer."""

    def __init__(self, keys: Half, values: Half):
        self.keys, self.values = keys, values

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add new tokens; all of them as attention sees them.

        Shapes:
            k, v    (batch, heads, new, head_dim)
            result  two of (batch, heads, seen + new, head_dim)
        """
        return self.keys.append(k), self.values.append(v)

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.keys.length

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self.values.nbytes


def whole() -> Store:
    """A store that keeps everything as it is."""
    return Store(Half(None, 0, 1), Half(None, 0, 1))


#: tokens of a window that enter a quantized cache at once when a text is scored; they see each other as they are
CHUNK = 64


def kv_cache(spec: str | KVCache) -> KVCache:
    """A cache by its spec string: ``kivi``, ``kivi:bits=4:recent=64``, ``kv_adaquant``, ``kv:keys=(int8 g64):values=(int4 g64)``.

    Raises:
        UnknownName: none has this name.
        SpecError: it has no such parameter, or the value does not fit.
    """
    return spec if isinstance(spec, KVCache) else cast(KVCache, method.parse("kv_cache", spec))


def text(value: KVCache) -> str:
    """The spec string of a cache; it parses back."""
    return method.text("kv_cache", value)
