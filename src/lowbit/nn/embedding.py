"""Embedding: rows looked up in a packed table."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lowbit.kernels.op import GATHER
from lowbit.nn.packed import PackedWeight


class Embedding(nn.Module):
    """An embedding on packed weights.

    Args:
        weight: (rows, features), packed.
        padding_index: as in torch; it changes gradients only, so it is kept for the record.
        scale: what rows are multiplied with after the look-up (Gemma), 1 by default.
        dtype: of the result, that of the table it replaces; rows are rounded to it once. It follows ``module.to(dtype)``.
    """

    def __init__(self, weight: PackedWeight, padding_index: int | None = None, scale: float = 1.0, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        self.weight = weight
        self.padding_idx = padding_index
        self.scale = scale
        self.register_buffer("result", torch.empty(0, dtype=dtype), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the result."""
        return self.get_buffer("result").dtype

    def forward(self, index: Tensor) -> Tensor:
        """index (*) integers to (*, features)."""
        layout = self.weight.layout()
        kernel = GATHER.kernel(index, layout)
        rows = functional.embedding(index, self.weight.dense()) if kernel is None else kernel.run(index, layout)
        return (rows if self.scale == 1.0 else rows * self.scale).to(self.dtype)
