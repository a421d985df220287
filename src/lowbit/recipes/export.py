"""Write a model as a checkpoint, packed layers and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lowbit.checkpoint.layout import Manifest
from lowbit.checkpoint.reading import Model
from lowbit.checkpoint.writing import Writer, new_folder
from lowbit.errors import OutputError, UnsupportedError
from lowbit.nn.change import describe
from lowbit.nn.convolution import Convolution
from lowbit.nn.embedding import Embedding
from lowbit.nn.linear import Linear
from lowbit.nn.packed import PackedWeight
from lowbit.quantizers.spec import text


def save(model: Model, folder: str | Path, *, recipe: Mapping[str, Any] | None = None, shard_bytes: int = 1 << 30) -> Manifest:
    """Write a model, quantized or not, as a checkpoint: ``lowbit.save(model, DIR)``; ``lowbit.load(DIR)`` reads it.

    Raises:
        OutputError: the folder is not empty, or cannot be written.
        UnsupportedError: it is a bare torch module, which nothing could build again.
    """
    if isinstance(model, nn.Module):
        raise UnsupportedError(
            f"save() writes what lowbit.open_model gave, not a {type(model).__name__}; "
            "for other modules keep model.state_dict() with torch.save"
        )
    place = Path(folder)
    with new_folder(place):
        return finish(_writer(model, place, dict(recipe or {}), shard_bytes), model, place)


def _writer(model: Model, folder: Path, recipe: dict[str, Any], shard_bytes: int) -> Writer:
    return Writer(folder, Manifest(model.kind, model.name, recipe, notes=list(model.notes)), shard_bytes)


def write_packed(writer: Writer, name: str, module: nn.Module) -> None:
    """Add a packed layer, weight and bias."""
    assert isinstance(module, Linear | Embedding | Convolution)
    activations = getattr(module, "activations", None)
    facts = {"dtype": str(module.dtype).removeprefix("torch.")} if isinstance(module, Embedding) else {}
    writer.add_packed(name, type(module).__name__, module.weight, None if activations is None else text(activations), **facts)


def finish(writer: Writer, model: Model, folder: Path) -> Manifest:
    """Add the packed layers that are not there yet, every tensor that none of them holds, the assets and the manifest."""
    for name, module in model.module.named_modules():
        if isinstance(module, Linear | Embedding | Convolution) and name not in writer.manifest.layers:
            write_packed(writer, name, module)
    writer.manifest.changes = describe(model.module)
    packed = tuple(f"{name}." for name, m in model.module.named_modules(remove_duplicate=False) if isinstance(m, PackedWeight))
    for name, tensor in model.module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and not name.startswith(packed) and name not in writer.manifest.tensors:
            writer.add(name, tensor)
    return finish_assets(writer, model, folder)


def finish_assets(writer: Writer, model: Model, folder: Path) -> Manifest:
    """Add configuration, tokenizer and the manifest.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        model.save_assets(folder)
    except OSError as error:
        raise OutputError(f"{str(folder)!r} cannot be written: {error.strerror or error}") from error
    return writer.finish()
