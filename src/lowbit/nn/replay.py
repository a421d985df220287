"""Running a block again and again while its products change one after the other; what stays as it was is not computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lowbit.nn.capture import forwards

#: a result with the version of each tensor in it, to notice that somebody has worked on it since
Kept = tuple[Any, tuple[int, ...]]


class Replay:
    """Keeps the results of those parts of a block that no longer change.

    A part is a submodule. It is settled when none of the products that are still to be changed lies in it. In the first pass that
    runs a settled part its result is kept; later passes with the same sample get that result. Results of parts inside a settled
    part are dropped then. That is right while products are changed in the order in which they run, and every pass ends before the
    first one that is still to be changed: ``forget`` everything before a change out of order.

    Args:
        block: the module that is run.
        pending: names of the products that will be changed.
        room: bytes of results that may be kept; beyond, parts are simply run again.
    """

    def __init__(self, block: nn.Module, pending: Iterable[str], room: int):
        self.block = block
        self.pending = set(pending)
        self.room = room
        self.kept: dict[tuple[int, str, int], Kept] = {}
        self.nbytes = 0

    def settle(self, names: Iterable[str]) -> None:
        """These products have been changed for good."""
        self.pending -= set(names)

    def forget(self) -> None:
        """Drop all results."""
        self.kept.clear()
        self.nbytes = 0

    def parts(self) -> list[str]:
        """The settled submodules, those with parameters; also those inside others, which may have been kept before them."""
        return [
            name
            for name, module in self.block.named_modules()
            if name and next(module.parameters(), None) is not None and not any(f"{p}.".startswith(f"{name}.") for p in self.pending)
        ]

    @contextmanager
    def sample(self, index: int) -> Iterator[None]:
        """Inside, settled parts of the block answer from what they gave for this sample before."""
        parts = {name: self.block.get_submodule(name) for name in self.parts()} if self.room else {}
        with forwards({module: self._answering(index, name, module) for name, module in parts.items()}):
            yield

    def _answering(self, index: int, name: str, module: nn.Module) -> Callable[..., Any]:
        run, calls = module.forward, 0

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            key, calls = (index, name, calls), calls + 1
            before = self.kept.get(key)
            if before is not None and before[1] == _versions(before[0]):
                return before[0]
            result = run(*args, **kwargs)
            self._keep(key, result)
            return result

        return forward

    def _keep(self, key: tuple[int, str, int], result: Any) -> None:
        index, name, _ = key
        for inner in [k for k in self.kept if k[0] == index and (k[1].startswith(name + ".") or k == key)]:
            self.nbytes -= _nbytes(self.kept.pop(inner)[0])
        size = _nbytes(result)
        if self.nbytes + size <= self.room:
            self.kept[key] = (result, _versions(result))
            self.nbytes += size


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, tuple | list):
        for each in result:
            yield from _tensors(each)


def _versions(result: Any) -> tuple[int, ...]:
    return tuple(t._version for t in _tensors(result))


def _nbytes(result: Any) -> int:
    return sum(t.numel() * t.element_size() for t in _tensors(result))


def available_bytes() -> int:
    """Memory that a process can take now without pushing others out; 0 where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(dict(line.split(":") for line in lines)["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return 0
