"""The layout of a checkpoint folder, version 1.

::

    lowbit.json                what everything is: layout version, model kind, packed layers, digests; written last
    model-00001.safetensors    shards, each written whole or not at all
    config.json tokenizer*     what the model's own loader needs

A packed part is stored under ``<layer>.weight.<part>`` (``model.layers.0.mlp.up_proj.weight.scale.codes``), every
other tensor under its own name. Plain float32 tensors that 16 bits hold exactly are stored in 16 bits; ``dtype`` in
the table is what they are read back as. Tied tensors are stored once and named in ``tied``. ``digest`` is BLAKE2b-128
of a tensor's stored bytes. Folders without ``lowbit.json`` are unfinished.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowbit.errors import CheckpointError

LAYOUT = 1
MANIFEST = "lowbit.json"
DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what it must be."""

    file: str
    shape: tuple[int, ...]
    stored: str
    dtype: str
    digest: str


@dataclass
class Manifest:
    """The content of ``lowbit.json``.

    Args:
        kind: who builds the model (``builtin``, ``huggingface``).
        source: what the user called the model.
        recipe: how it was quantized, for people and for ``inspect``.
        layers: packed layers: module class, shape, terms, activations spec.
        tensors: every stored tensor.
        tied: name -> name of the tensor that holds its values.
        versions: lowbit, torch, python.
    """

    kind: str
    source: str
    recipe: dict[str, Any]
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The JSON text."""
        return json.dumps({"layout": LAYOUT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(torch.Size(t.shape).numel() * DTYPES[t.stored].itemsize for t in self.tensors.values())

    @property
    def digest(self) -> str:
        """One digest of all tensors' names and digests, in order of name."""
        total = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.tensors.items()):
            total.update(f"{name}\0{tensor.digest}\0".encode())
        return total.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder.

    Raises:
        CheckpointError: it is missing, damaged, or of a layout that this version does not read.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {str(folder)!r}")
    if not path.is_file():
        raise CheckpointError(f"{str(folder)!r} holds no {MANIFEST}: it is no lowbit checkpoint, or its writing was cut off")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        layout = content.pop("layout")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged: {error}") from error
    if layout != LAYOUT:
        raise CheckpointError(f"{str(path)!r} has layout {layout!r}; this version of lowbit reads layout {LAYOUT}: write it again from the original")
    try:
        tensors = {n: StoredTensor(**{**t, "shape": tuple(map(int, t["shape"]))}) for n, t in content.pop("tensors").items()}
        manifest = Manifest(**content, tensors=tensors)
        for name, t in tensors.items():
            bad_file = Path(t.file).name != t.file or not t.file.endswith(".safetensors")
            if bad_file or t.stored not in DTYPES or t.dtype not in DTYPES or any(n < 0 for n in t.shape):
                raise CheckpointError(f"{str(path)!r}: the entry of {name!r} names the file {t.file!r} and {t.stored!r}, which cannot be")
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged: {error}") from error
    return manifest


def digest(tensor: Tensor) -> str:
    """BLAKE2b-128 of the bytes of a tensor, row by row."""
    data = tensor.detach().cpu().contiguous()
    return hashlib.blake2b(data.reshape(-1).view(torch.uint8).numpy().data, digest_size=16).hexdigest()


def narrowed(tensor: Tensor) -> Tensor:
    """A float32 tensor in bfloat16 or float16 where that is exact, otherwise as it is."""
    if tensor.dtype == torch.float32:
        for small in (torch.bfloat16, torch.float16):
            short = tensor.to(small)
            if torch.equal(short.float(), tensor):
                return short
    return tensor
