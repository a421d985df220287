"""Reading a checkpoint: every size is checked against the manifest, every tensor against its digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lowbit.checkpoint.layout import DTYPES, MANIFEST, Manifest, digest, file_digests, read_manifest, shard_name
from lowbit.errors import CheckpointError, LowbitError, ModelError
from lowbit.models.builtin import Builtin
from lowbit.models.huggingface import HuggingFace
from lowbit.models.opening import check_device, open_original
from lowbit.nn.change import CHILD, described
from lowbit.nn.convolution import Convolution
from lowbit.nn.linear import Linear
from lowbit.nn.packed import PackedWeight, keep_dense
from lowbit.nn.replace import KINDS, packed_module, put
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
                self._open[entry.file] = self._opened(path)
            tensor = self._open[entry.file].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{str(path)!r} is missing, truncated or damaged ({error}); copy it again") from error
        if tuple(tensor.shape) != entry.shape or tensor.dtype != DTYPES[entry.stored]:
            found = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise CheckpointError(f"{name!r} in {entry.file} is {found}, the manifest says {entry.stored} {entry.shape}")
        if self.verify and digest(tensor) != entry.digest:
            raise CheckpointError(f"{name!r} in {entry.file} has been changed: its digest is not that of the manifest; copy the file again")
        return tensor.to(DTYPES[entry.dtype])  # type: ignore[no-any-return]

    def _opened(self, path: Path) -> Any:
        file = safe_open(path, "pt")
        odd = set(file.keys()) ^ {n for n, t in self.manifest.tensors.items() if t.file == path.name}
        if odd:
            raise CheckpointError(
                f"{str(path)!r} and the manifest name different tensors, for instance {min(odd)!r}; copy the folder again"
            )
        return file

    def starting(self, prefix: str) -> dict[str, Tensor]:
        """All tensors under a prefix, without it."""
        return {part: self[n] for part, n in self._sources(prefix).items()}

    def identity(self, prefix: str, facts: Mapping[str, Any]) -> str:
        """What a packed weight is, so that equal ones are known: its shape, its terms, and the digests of its parts."""
        parts = sorted((part, self.manifest.tensors[n].digest) for part, n in self._sources(prefix).items())
        return repr((facts["shape"], facts["terms"], parts))

    def _sources(self, prefix: str) -> dict[str, str]:
        """What follows a prefix -> the stored tensor."""
        names = [*self.manifest.tensors, *self.manifest.tied]
        return {n.removeprefix(prefix): self.manifest.tied.get(n, n) for n in names if n.startswith(prefix)}


def load(folder: str | Path, device: str = "cpu", *, verify: bool = True, keep: bool | None = None) -> Model:
    """The model of a checkpoint folder, its packed layers as lowbit modules.

    Args:
        verify: compare every tensor with its digest (about a second a gigabyte).
        keep: whether layers keep a dense float32 weight after first use, and multiply with it; None: those that no kernel serves.

    Raises:
        CheckpointError: the folder is no checkpoint, is truncated, tampered with, or of another layout.
        ModelError: there is no such device.
    """
    check_device(device)
    place = Path(folder)
    manifest = read_manifest(place)
    if manifest.kind not in ("builtin", "huggingface"):
        raise CheckpointError(f"the checkpoint is of a model kind {manifest.kind!r}, which this version cannot build")
    if verify:
        check_files(place, manifest)
    try:
        model: Model = Builtin.empty(place) if manifest.kind == "builtin" else HuggingFace.empty(place, str(folder))
    except ModelError as error:
        raise CheckpointError(f"the model of the checkpoint {str(folder)!r} cannot be built: {error}") from error
    model.name = str(folder)
    model.notes = tuple(manifest.notes)
    tensors = Tensors(place, manifest, verify)
    modules = dict(model.module.named_modules())
    held: dict[str, PackedWeight] = {}
    for name, facts in manifest.layers.items():
        if not isinstance(modules.get(name), KINDS):
            raise CheckpointError(f"the checkpoint packs a layer {name!r} that the model does not have")
        put(model.module, name, _layer(name, facts, modules[name], tensors, held))
    _change(model.module, tensors, manifest)
    _fill(model.module, tensors, manifest)
    model.tie()
    keep_dense(model.module, keep)
    model.module.to(device)
    return model


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare the files that decide numbers with their digests.

    Raises:
        CheckpointError: one is missing, has been changed, or was not there.
    """
    try:
        found = file_digests(folder)
    except OSError as error:
        raise CheckpointError(f"the checkpoint {str(folder)!r} cannot be read: {error}") from error
    for name in sorted(found.keys() | manifest.files.keys()):
        if found.get(name) != manifest.files.get(name):
            state = "missing" if name not in found else "not of this checkpoint" if name not in manifest.files else "changed"
            raise CheckpointError(f"{str(folder / name)!r} is {state}: its digest is not that of the manifest; copy it again")


def _layer(name: str, facts: Mapping[str, Any], layer: nn.Module, tensors: Tensors, held: dict[str, PackedWeight]) -> nn.Module:
    shape, own = torch.Size(facts["shape"]), layer.weight
    if isinstance(own, Tensor) and own.flatten(1).shape != shape:
        raise CheckpointError(f"layer {name}: packed as {tuple(shape)}, the model has {tuple(own.flatten(1).shape)}")
    try:
        activations = None if facts.get("activations") is None else parse(facts["activations"])
        key = tensors.identity(f"{name}.weight.", facts)
        weight = held[key] if key in held else PackedWeight.described(tensors.starting(f"{name}.weight."), shape, facts["terms"])
        held[key] = weight  # a tied embedding and output layer share it
        dtype = DTYPES[facts["dtype"]] if "dtype" in facts else None
    except CheckpointError as error:
        raise CheckpointError(f"layer {name}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, LowbitError) as error:
        first = str(error).partition("\n")[0]
        raise CheckpointError(f"layer {name}: its description in the manifest cannot be read: {first}") from error
    packed = packed_module(layer, weight, activations, dtype)
    if type(packed).__name__ != facts["module"]:
        raise CheckpointError(f"layer {name}: packed as a {facts['module']}, the model has a {type(layer).__name__} there")
    return packed


def _change(module: nn.Module, tensors: Tensors, manifest: Manifest) -> None:
    """What transforms have left in the model: changes of basis, and biases that it has not by itself."""
    modules = dict(module.named_modules())
    for name, facts in manifest.changes.items():
        if name not in modules:
            raise CheckpointError(f"the checkpoint changes the basis of {name!r}, which the model does not have")
        described(modules[name], facts, tensors.starting(f"{name}.{CHILD}."))
    for name, entry in manifest.tensors.items():
        layer = modules.get(name.removesuffix(".bias"))
        if name.endswith(".bias") and isinstance(layer, nn.Linear | Linear | Convolution | _ConvNd) and layer.bias is None:
            outputs = layer.weight.shape[0]
            if entry.shape != (outputs,):
                raise CheckpointError(f"{name!r} is {entry.shape}, the layer has {outputs} outputs")
            layer.bias = nn.Parameter(torch.empty(outputs, device="meta"), requires_grad=False)


def _fill(module: nn.Module, tensors: Tensors, manifest: Manifest) -> None:
    packed = tuple(f"{name}." for name, m in module.named_modules(remove_duplicate=False) if isinstance(m, PackedWeight))
    names = [n for n in [*manifest.tensors, *manifest.tied] if not n.startswith(packed)]
    known = set(names)
    lacking = [n for n in module.state_dict() if not n.startswith(packed) and n not in known]
    if lacking:
        raise CheckpointError(f"the checkpoint lacks {len(lacking)} tensors, the first is {lacking[0]!r}")
    filled: dict[str, nn.Parameter | Tensor] = {}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        try:
            parent = module.get_submodule(owner)
        except AttributeError:
            raise CheckpointError(f"the checkpoint has a tensor {name!r} that the model does not have") from None
        source = manifest.tied.get(name, name)
        value = filled[source] if source in filled else tensors[source]
        current = getattr(parent, leaf, None)
        if not isinstance(current, Tensor) or current.shape != value.shape:
            have = tuple(current.shape) if isinstance(current, Tensor) else "nothing"
            raise CheckpointError(f"{name!r} is {tuple(value.shape)}, the model expects {have}")
        if leaf in parent._parameters and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=False)
        setattr(parent, leaf, value)
        filled[source] = value


def open_model(name: str, device: str = "cpu", dtype: str | None = None) -> Model:
    """A lowbit checkpoint folder, or whatever ``lowbit.models.opening`` knows; ``builtin`` is never a folder.

    Raises:
        ModelError, CheckpointError: there is no such model, or it cannot be read; a checkpoint is asked for in a dtype.
    """
    place = Path(name)
    ours = any((place / file).is_file() for file in (MANIFEST, shard_name(1)))
    if name == "builtin" or not place.is_dir() or ((place / "config.json").is_file() and not ours):
        return open_original(name, device, dtype)
    if dtype is not None:
        raise ModelError(f"{name!r} is a checkpoint, which keeps the dtypes it was written with; leave out the dtype")
    return load(name, device)
