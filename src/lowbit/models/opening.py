"""Open a model by what a user calls it."""

from __future__ import annotations

import torch

from lowbit.errors import ModelError
from lowbit.models.builtin import Builtin
from lowbit.models.huggingface import HuggingFace

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_original(name: str, device: str = "cpu", dtype: str | None = None) -> Builtin | HuggingFace:
    """``builtin``, a hub id, a folder or a GGUF file.

    Raises:
        ModelError: there is no such model, device or dtype.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ModelError(f"no dtype is called {dtype!r}; models are computed in {', '.join(DTYPES)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"the device {device!r} cannot be used: {str(error).partition(chr(10))[0]}") from error
    kind = None if dtype is None else DTYPES[dtype]
    return Builtin.load(device, kind) if name == "builtin" else HuggingFace.load(name, device, kind)
