"""The layout of a checkpoint folder, version 1.

::

    lowbit.json                what everything is: layout version, model kind, packed layers, digests; written last
    model-00001.safetensors    shards, each written whole or not at all
    config.json tokenizer*     what the model's own loader needs

``lowbit.json`` carries a checksum of itself, and digests of those of the other files that decide numbers (``FIXED``).
A packed part is stored under ``<layer>.weight.<part>`` (``model.layers.0.mlp.up_proj.weight.scale.codes``), every
other tensor under its own name. Plain float32 tensors that 16 bits hold exactly are stored in 16 bits; ``dtype`` in
the table is what they are read back as. Tied tensors are stored once and named in ``tied``. ``digest`` is BLAKE2b-128
of a tensor's stored bytes. Folders without ``lowbit.json`` are unfinished.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowbit.errors import CheckpointError

LAYOUT = 1
MANIFEST = "lowbit.json"
FIXED = ("config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what it must be."""

    file: str
    shape: tuple[int, ...]
    stored: str
    dtype: str
    digest: str

    @property
    def nbytes(self) -> int:
        """As stored."""
        return math.prod(self.shape) * DTYPES[self.stored].itemsize


@dataclass
class Manifest:
    """The content of ``lowbit.json``.

    Args:
        kind: who builds the model (``builtin``, ``huggingface``).
        source: what the user called the model.
        recipe: how it was quantized, for people and for ``inspect``.
        layers: packed layers: module class, shape, terms, activations spec.
        tensors: every stored tensor.
        changes: module -> the changes of basis that are computed in front of it or after it, see ``nn.change.describe``.
        tied: name -> name of the tensor that holds its values.
        files: digests of the files of ``FIXED`` that were written.
        versions: lowbit, torch, python.
    """

    kind: str
    source: str
    recipe: dict[str, Any]
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def text(self) -> str:
        """The JSON text."""
        content = {"layout": LAYOUT, **json.loads(json.dumps(asdict(self)))}
        return json.dumps({**content, "checksum": checksum(content)}, indent=1, ensure_ascii=False) + "\n"

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(t.nbytes for t in self.tensors.values())

    def layer_nbytes(self, layer: str) -> int:
        """Bytes of a packed layer's weight."""
        return sum(t.nbytes for name, t in self.tensors.items() if name.startswith(f"{layer}.weight."))

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
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged, it cannot be read as JSON: {error}; copy it again") from error
    if not isinstance(content, dict) or "layout" not in content:
        raise CheckpointError(f"{str(path)!r} is not of lowbit: it names no layout")
    layout = content.pop("layout")
    if layout != LAYOUT:
        raise CheckpointError(
            f"{str(path)!r} has layout {layout!r}; this version of lowbit reads layout {LAYOUT}: write it again from the original"
        )
    if content.pop("checksum", None) != checksum({"layout": layout, **content}):
        raise CheckpointError(f"{str(path)!r} has been changed: its checksum is not that of its content; copy it again")
    try:
        tensors = {n: StoredTensor(**{**t, "shape": tuple(t["shape"])}) for n, t in content.pop("tensors").items()}
        manifest = Manifest(**content, tensors=tensors)
        _check(manifest)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged or foreign: {type(error).__name__} {error}") from error
    return manifest


def _check(manifest: Manifest) -> None:
    """Raises ValueError where an entry cannot be what it should be; everything that is read later relies on this."""
    for name, t in manifest.tensors.items():
        if Path(t.file).name != t.file or not t.file.endswith(".safetensors"):
            raise ValueError(f"the tensor {name!r} lies in {t.file!r}, which is no safetensors file of this folder")
        if t.stored not in DTYPES or t.dtype not in DTYPES:
            raise ValueError(f"the tensor {name!r} has the dtype {t.stored!r}, read as {t.dtype!r}; known are {', '.join(DTYPES)}")
        if not all(isinstance(n, int) and n >= 0 for n in t.shape):
            raise ValueError(f"the tensor {name!r} has the shape {t.shape}")
    for name, facts in manifest.layers.items():
        terms = facts["terms"]
        words = [facts["module"], *(word for term in terms for word in (term["kind"], *term.values()))]
        words += [] if facts.get("activations") is None else [facts["activations"]]
        if not terms or not all(isinstance(w, str) for w in words) or not all(isinstance(n, int) and n >= 0 for n in facts["shape"]):
            raise ValueError(f"the layer {name!r} is described by {facts}")
    for name, facts in manifest.changes.items():
        shapes = facts["parts"].values()
        if not all(isinstance(k, str) for k in facts["kinds"]) or not all(isinstance(n, int) and n >= 0 for s in shapes for n in s):
            raise ValueError(f"the changes of {name!r} are described by {facts}")
    for each in (manifest.recipe, manifest.tied, manifest.files, manifest.versions, manifest.measured):
        if not isinstance(each, dict):
            raise TypeError(f"{each!r} is no table")
    if not all(isinstance(n, str) for n in (*manifest.notes, *manifest.tied.values(), manifest.kind, manifest.source)):
        raise TypeError("a name or note is no text")
    if not set(manifest.files) <= set(FIXED):
        raise ValueError(f"digests of {sorted(manifest.files)}, where {', '.join(FIXED)} can have one")


def shard_name(number: int) -> str:
    """The file of a shard; shards count from 1. Hugging Face's names hold the number of shards too."""
    return f"model-{number:05}.safetensors"


def checksum(content: dict[str, Any]) -> str:
    """BLAKE2b-128 of the content of a manifest, whatever the order of its keys."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """BLAKE2b-128 of each file of ``FIXED`` that the folder holds."""
    return {name: hashlib.blake2b((folder / name).read_bytes(), digest_size=16).hexdigest() for name in FIXED if (folder / name).is_file()}


def digest(tensor: Tensor) -> str:
    """BLAKE2b-128 of the bytes of a tensor, row by row."""
    data = tensor.detach().cpu().contiguous()
    return hashlib.blake2b(data.reshape(-1).view(torch.uint8).numpy().data, digest_size=16).hexdigest()


def narrowed(tensor: Tensor) -> Tensor:
    """A float32 tensor in bfloat16 or float16 where that is exact, otherwise as it is."""
    if tensor.dtype == torch.float32:
        parts = tensor.reshape(-1).split(1 << 20)  # a whole copy of a large table would be too much memory
        for small in (torch.bfloat16, torch.float16):
            if all(torch.equal(part.to(small).float(), part) for part in parts):
                return tensor.to(small)
    return tensor
