"""Hidden states of all calibration sequences between two blocks, in memory or, beyond a bound, in a file."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowbit.errors import OutputError, UnsupportedError

#: bytes of an element -> integers of that size, as which the elements are kept
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
KINDS = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}


class Stream:
    """One hidden state a sequence, replaced in place as the blocks are passed.

    Args:
        count: of sequences.
        shape: of one hidden state.
        folder: where to keep them in a file; None keeps them in memory.

    Raises:
        OutputError: the folder has no room for the file.
    """

    def __init__(self, count: int, shape: Sequence[int], dtype: torch.dtype, folder: Path | None = None):
        self.count = count
        self.dtype = dtype
        self._file = None
        if folder is None:
            self._states: list[Tensor | None] = [None] * count
        else:
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".hidden-")  # noqa: SIM115 -- closed with the stream
            _reserve(self._file.fileno(), count * math.prod(shape) * dtype.itemsize, folder)
            self._map = np.memmap(self._file, dtype=KINDS[dtype.itemsize], mode="w+", shape=(count, *shape))

    @classmethod
    def like(cls, other: Stream, folder: Path | None) -> Stream:
        """A copy of another stream."""
        copy = cls(other.count, other[0].shape, other.dtype, folder)
        for i in range(other.count):
            copy[i] = other[i]
        return copy

    def __getitem__(self, i: int) -> Tensor:
        if self._file is not None:
            return torch.from_numpy(np.array(self._map[i])).view(self.dtype)
        state_or_none = self._states[i]
        assert state_or_none is not None
        return state_or_none

    def __setitem__(self, i: int, state: Tensor) -> None:
        if self._file is None:
            self._states[i] = state.detach()
        else:
            if tuple(state.shape) != self._map.shape[1:]:
                raise UnsupportedError(
                    f"a block turns a hidden state {self._map.shape[1:]} into {tuple(state.shape)}; "
                    "such models are calibrated in memory only"
                )
            plain = state.detach().to("cpu", self.dtype).contiguous()
            self._map[i] = plain.view(BITS[self.dtype.itemsize]).numpy()

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return self.count * self[0].numel() * self[0].element_size()


def _reserve(descriptor: int, size: int, folder: Path) -> None:
    """Take the room on disk before it is written to: a mapped file that finds none ends the process."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise OutputError(
            f"the hidden states between blocks take {size / 1e6:.1f} MB, which {str(folder)!r} has no room for ({error.strerror}); "
            "make room, or use fewer or shorter calibration sequences"
        ) from error
