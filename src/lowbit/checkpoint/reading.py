"""Reading a checkpoint: every size is checked against the manifest, every tensor against its digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lowbit.checkpoint.layout import DTYPES, Manifest, digest, read_manifest
from lowbit.errors import CheckpointError, LowbitError
from lowbit.models.builtin import Builtin
from lowbit.models.huggingface import HuggingFace
from lowbit.models.opening import open_original
from lowbit.nn.packed import PackedWeight, keep_dense
from lowbit.nn.replace import packed_module, put
from lowbit.quantizers.spec import quantizer as parse

Model = Builtin | HuggingFace


class Tensors:
    """The stored tensors of a checkpoint, read one at a time.

    Args:
        verify: whether each tensor's digest is computed when it is read.
    """

    def __init__(self, folder: Path, manifest: Manifest, verify: bool = True):
        self.folder = folder
        self.manifest = manifest
        self.verify = verify
        self._open: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        """The tensor in the dtype that it stands for.

        Raises:
            CheckpointError: it is not there, or not what the manifest says.
        """
        entry = self.manifest.tensors.get(name)
        if entry is None:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}")
        path = self.folder / entry.file
        try:
            if entry.file not in self._open:
                self._open[entry.file] = safe_open(path, "pt")
            tensor = self._open[entry.file].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{str(path)!r} is missing, truncated or damaged ({error}); copy it again") from error
        if tuple(tensor.shape) != entry.shape or tensor.dtype != DTYPES[entry.stored]:
            raise CheckpointError(f"{name!r} in {entry.file} is {tensor.dtype} {tuple(tensor.shape)}, the manifest says {entry.stored} {entry.shape}")
        if self.verify and digest(tensor) != entry.digest:
            raise CheckpointError(f"{name!r} in {entry.file} has been changed: its digest is not that of the manifest; copy the file again")
        return tensor.to(DTYPES[entry.dtype])  # type: ignore[no-any-return]

    def starting(self, prefix: str) -> dict[str, Tensor]:
        """All tensors under a prefix, without it."""
        return {n.removeprefix(prefix): self[n] for n in self.manifest.tensors if n.startswith(prefix)}


def load(folder: str | Path, device: str = "cpu", *, verify: bool = True, keep: bool = True) -> Model:
    """The model of a checkpoint folder, its packed layers as lowbit modules.

    Args:
        verify: compare every tensor with its digest (about a second a gigabyte).
        keep: let layers keep their dense float32 weights after first use; faster, more memory.

    Raises:
        CheckpointError: the folder is no checkpoint, is truncated, tampered with, or of another layout.
    """
    place = Path(folder)
    manifest = read_manifest(place)
    if manifest.kind not in ("builtin", "huggingface"):
        raise CheckpointError(f"the checkpoint is of a model kind {manifest.kind!r}, which this version cannot build")
    model: Model = Builtin.empty(place) if manifest.kind == "builtin" else HuggingFace.empty(place, str(folder))
    model.name = str(folder)
    model.notes = tuple(manifest.notes)
    tensors = Tensors(place, manifest, verify)
    modules = dict(model.module.named_modules())
    for name, facts in manifest.layers.items():
        if name not in modules:
            raise CheckpointError(f"the checkpoint packs a layer {name!r} that the model does not have")
        put(model.module, name, _layer(name, facts, modules[name], tensors))
    _fill(model.module, tensors, manifest)
    model.tie()
    empty = [n for n, p in model.module.named_parameters() if p.device.type == "meta"]
    if empty:
        raise CheckpointError(f"the checkpoint lacks {len(empty)} tensors, the first is {empty[0]!r}")
    keep_dense(model.module, keep)
    model.module.to(device)
    return model


def _layer(name: str, facts: Mapping[str, Any], layer: nn.Module, tensors: Tensors) -> nn.Module:
    try:
        shape = torch.Size(int(n) for n in facts["shape"])
        activations = None if facts.get("activations") is None else parse(facts["activations"])
        weight = PackedWeight.described(tensors.starting(f"{name}.weight."), shape, facts["terms"])
    except CheckpointError as error:
        raise CheckpointError(f"layer {name}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, LowbitError) as error:
        raise CheckpointError(f"layer {name}: its description in the manifest cannot be read: {str(error).partition(chr(10))[0]}") from error
    own = layer.weight
    if isinstance(own, Tensor) and own.flatten(1).shape != shape:
        raise CheckpointError(f"layer {name}: packed as {tuple(shape)}, the model has {tuple(own.flatten(1).shape)}")
    return packed_module(layer, weight, activations)


def _fill(module: nn.Module, tensors: Tensors, manifest: Manifest) -> None:
    packed = tuple(f"{name}.weight." for name in manifest.layers)
    for name in [*manifest.tensors, *manifest.tied]:
        if name.startswith(packed):
            continue
        owner, _, leaf = name.rpartition(".")
        try:
            parent = module.get_submodule(owner)
        except AttributeError:
            raise CheckpointError(f"the checkpoint has a tensor {name!r} that the model does not have") from None
        value = tensors[manifest.tied.get(name, name)]
        current = getattr(parent, leaf, None)
        if not isinstance(current, Tensor) or current.shape != value.shape:
            have = tuple(current.shape) if isinstance(current, Tensor) else "nothing"
            raise CheckpointError(f"{name!r} is {tuple(value.shape)}, the model expects {have}")
        if leaf in parent._parameters:
            setattr(parent, leaf, nn.Parameter(value, requires_grad=False))
        else:
            setattr(parent, leaf, value)


def open_model(name: str, device: str = "cpu", dtype: str | None = None) -> Model:
    """A lowbit checkpoint folder, or whatever ``lowbit.models.opening`` knows.

    Raises:
        ModelError, CheckpointError: there is no such model, or it cannot be read.
    """
    place = Path(name)
    if place.is_dir() and ((place / "lowbit.json").is_file() or not (place / "config.json").is_file()):
        return load(place, device)
    return open_original(name, device, dtype)
