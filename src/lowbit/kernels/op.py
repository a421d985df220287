"""Op: an operation with several kernels. Backends are asked in order, each may refuse with a sentence."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch

from lowbit.errors import NoKernel, UnknownName

#: backend -> the module that it needs; asked in this order, before the reference
BACKENDS = {"triton": "triton", "cpu": "lowbit._cpu"}

#: module -> the number of its interface; one that was built from older sources is not used
INTERFACES = {"lowbit._cpu": 4}

#: the torch code of quantizers/, which takes everything
REFERENCE = "reference"

_forced: ContextVar[str | None] = ContextVar("forced backend", default=None)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Only this backend inside: what it refuses raises NoKernel instead of going elsewhere. ``reference`` is the torch code.

    Raises:
        UnknownName: there is no such backend.
    """
    if name not in (*BACKENDS, REFERENCE):
        raise UnknownName(f"no backend is called {name!r}; there are {', '.join((*BACKENDS, REFERENCE))}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def forced() -> str | None:
    """The backend that ``backend`` names around the caller, or None."""
    return _forced.get()


@lru_cache
def extension(module: str) -> ModuleType | None:
    """The compiled module that a backend needs, or None where it was not built, which is said once. A broken one raises."""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        what = "was not built"
    else:
        if found.interface == INTERFACES[module]:
            return found
        what = f"was built from other sources (interface {found.interface}, not {INTERFACES[module]})"
    warnings.warn(
        f"{module} {what}: quantizing and packed layers run on the torch reference, which is slower and takes more memory. "
        "With a C++17 compiler `pip install .` in the sources builds it.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def has_cuda() -> bool:
    """Whether there is a CUDA device, or Triton's interpreter stands in for one."""
    return interpreted() or _cuda()


@lru_cache
def _cuda() -> bool:
    return torch.cuda.is_available()


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on tensors of the CPU: ``TRITON_INTERPRET=1``."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _absent(name: str) -> str | None:
    """Why a backend cannot run here whatever it is given."""
    module = BACKENDS[name]
    if module in INTERFACES:
        return f"{module} was not built from these sources" if extension(module) is None else None
    if not has_cuda():
        return "there is no CUDA device"
    return f"{module} is not installed" if importlib.util.find_spec(module) is None else None


@lru_cache
def _kernel(name: str, operation: str) -> ModuleType | str:
    """The kernel's module, or why there is none. Only absence is forgiven: a kernel that fails to import raises."""
    absent = _absent(name)
    if absent is not None:
        return absent
    module = f"lowbit.kernels.{name}.{operation}"
    return f"no {operation} for {name}" if importlib.util.find_spec(module) is None else importlib.import_module(module)


@dataclass(frozen=True)
class Op:
    """An operation by its name; its kernels are the files ``kernels/<backend>/<name>.py`` with ``refuses`` and ``run``.

    Args:
        always: it is asked for whatever backend is named.
    """

    name: str
    always: bool = False

    def plan(self, *args: Any) -> tuple[ModuleType | None, dict[str, str]]:
        """The kernel that would run, None for the reference, and for each backend asked before it, why it refused."""
        refusals: dict[str, str] = {}
        forced = None if self.always else _forced.get()
        for name in BACKENDS:
            if forced not in (None, name) or (forced is None and name == "triton" and not has_cuda()):
                continue  # without a CUDA device nobody needs to hear of it
            kernel = _kernel(name, self.name)
            reason = kernel if isinstance(kernel, str) else kernel.refuses(*args)
            if reason is None and not isinstance(kernel, str):
                return kernel, refusals
            refusals[name] = str(reason)
        return None, refusals

    def kernel(self, *args: Any) -> ModuleType | None:
        """The kernel to run, None for the reference.

        Raises:
            NoKernel: ``backend`` names one that refuses; the message is its reason.
        """
        kernel, refusals = self.plan(*args)
        if kernel is None and _forced.get() not in (None, REFERENCE):
            raise NoKernel(f"{self.name}: " + "; ".join(f"{name}: {reason}" for name, reason in refusals.items()))
        return kernel


#: numbers to what they become; numbers to codes and scales; the scales alone; codes to numbers; codes to bytes and back
FAKE_QUANTIZE, QUANTIZE, SCALES, ENCODE, DEQUANTIZE, PACK, UNPACK = (
    Op(name) for name in ("fake_quantize", "quantize", "scales", "encode", "dequantize", "pack", "unpack")
)

#: which of several quantizers of a whole tensor has the least squared error
BEST = Op("best")

#: a linear on packed codes, with activations as they are and in int8
QLINEAR, QLINEAR_INT8 = Op("qlinear"), Op("qlinear_int8")

#: the weight of a linear as its kernels read it
LINEAR_LAYOUT = Op("linear_layout", always=True)

#: rows of packed codes as numbers
GATHER = Op("gather")
