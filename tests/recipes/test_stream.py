"""Hidden states come back as they went in, from memory and from a file; a disk without room is an error, not a signal."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from lowbit.errors import OutputError
from lowbit.recipes.stream import Stream


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("spilled", [False, True])
def test_what_goes_in_comes_out(spilled: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    states = [torch.randn(1, 5, 3).to(dtype) for _ in range(3)]
    states[1][0, 0] = torch.tensor([float("nan"), float("inf"), -0.0])
    stream = Stream(3, (1, 5, 3), dtype, tmp_path if spilled else None)
    for i in (2, 0, 1):
        stream[i] = states[i]
    stream[0] = states[0] + 1
    for i, expected in enumerate([states[0] + 1, *states[1:]]):
        assert stream[i].dtype == dtype and stream[i].shape == expected.shape
        assert torch.equal(stream[i].view(torch.uint8), expected.view(torch.uint8))
    assert stream.nbytes == 45 * dtype.itemsize


@pytest.mark.parametrize("spilled", [False, True])
def test_a_copy_goes_its_own_way(spilled: bool, tmp_path: Path) -> None:
    folder = tmp_path if spilled else None
    stream = Stream(2, (2, 2), torch.float32, folder)
    for i in range(2):
        stream[i] = torch.full((2, 2), float(i))
    other = Stream.like(stream, folder)
    other[0] = torch.full((2, 2), 9.0)
    assert [float(s[0].sum()) for s in (stream, other)] == [0.0, 36.0]
    assert float(other[1].sum()) == 4.0


def test_a_spilled_state_is_nobodys_view(tmp_path: Path) -> None:
    stream = Stream(1, (2,), torch.float32, tmp_path)
    stream[0] = torch.ones(2)
    stream[0].add_(1)
    assert stream[0].tolist() == [1.0, 1.0]


def test_the_file_has_no_name_and_goes_with_the_stream(tmp_path: Path) -> None:
    stream = Stream(4, (100,), torch.float32, tmp_path)
    stream[3] = torch.ones(100)
    assert list(tmp_path.iterdir()) == []
    assert float(stream[3].sum()) == 100.0


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def full(descriptor: int, start: int, size: int) -> None:
        asked.append(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"take 2\.0 MB, which .* has no room for \(No space left on device\); make room, or use fewer"):
        Stream(10, (50_000,), torch.float32, tmp_path)
    assert asked == [2_000_000]
