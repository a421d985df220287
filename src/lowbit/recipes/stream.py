"""Hidden states of all calibration sequences between two blocks, in memory or, beyond a bound, in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Stream:
    """One hidden state a sequence, replaced in place as the blocks are passed.

    Args:
        count: of sequences.
        shape: of one hidden state.
        folder: where to keep them in a file; None keeps them in memory.
    """

    def __init__(self, count: int, shape: Sequence[int], dtype: torch.dtype, folder: Path | None = None):
        self.count = count
        self.dtype = dtype
        self._file = None
        if folder is None:
            self._states: list[Tensor | None] = [None] * count
        else:
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".hidden-")  # noqa: SIM115: closed with the stream
            kind = np.float32 if dtype == torch.float32 else np.int16
            self._map = np.memmap(self._file, dtype=kind, mode="w+", shape=(count, *shape))

    @classmethod
    def like(cls, other: Stream, folder: Path | None) -> Stream:
        """A copy of another stream."""
        copy = cls(other.count, other[0].shape, other.dtype, folder)
        for i in range(other.count):
            copy[i] = other[i]
        return copy

    def __getitem__(self, i: int) -> Tensor:
        if self._file is not None:
            state = torch.from_numpy(np.array(self._map[i]))
            return state if self.dtype == torch.float32 else state.view(self.dtype)
        state_or_none = self._states[i]
        assert state_or_none is not None
        return state_or_none

    def __setitem__(self, i: int, state: Tensor) -> None:
        if self._file is None:
            self._states[i] = state.detach()
        else:
            plain = state.detach().contiguous()
            self._map[i] = (plain if self.dtype == torch.float32 else plain.view(torch.int16)).cpu().numpy()

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return self.count * self[0].numel() * self[0].element_size()
