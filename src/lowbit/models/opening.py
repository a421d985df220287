"""Open a model by what a user calls it."""

from __future__ import annotations

import torch

from lowbit.errors import ModelError
from lowbit.models.builtin import Builtin
from lowbit.models.huggingface import HuggingFace

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def named_dtype(name: str) -> torch.dtype:
    """The dtype a model is computed in, by its name.

    Raises:
        ModelError: no model is computed in it.
    """
    if name not in DTYPES:
        raise ModelError(f"no dtype is called {name!r}; models are computed in {', '.join(DTYPES)}")
    return DTYPES[name]


def check_device(device: str) -> None:
    """Raises ModelError if torch cannot hold numbers there."""
    try:
        usable = torch.empty(1, device=device).device.type != "meta"
    except (RuntimeError, AssertionError):
        usable = False
    if not usable:
        cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        here = ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]
        raise ModelError(f"the device {device!r} cannot be used; this torch can use {', '.join(here)}")


def open_original(name: str, device: str = "cpu", dtype: str | None = None) -> Builtin | HuggingFace:
    """``builtin``, a hub id, a folder or a GGUF file.

    Raises:
        ModelError: there is no such model, device or dtype.
    """
    kind = None if dtype is None else named_dtype(dtype)
    check_device(device)
    return Builtin.load(device, kind) if name == "builtin" else HuggingFace.load(name, device, kind)
