"""Quantize into a checkpoint folder, writing each shard as soon as it is full."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lowbit.checkpoint.layout import Manifest
from lowbit.checkpoint.reading import Model
from lowbit.checkpoint.writing import Writer, claim_folder
from lowbit.nn.convolution import Convolution
from lowbit.nn.embedding import Embedding
from lowbit.nn.linear import Linear
from lowbit.nn.packed import PackedWeight, keep_dense
from lowbit.nn.replace import packed_module, put
from lowbit.progress import ProgressCallback
from lowbit.quantizers.spec import text
from lowbit.recipes.plan import Plan
from lowbit.recipes.quantize import Solved, solve


def quantize_into(
    model: Model,
    made: Plan,
    folder: Path,
    *,
    seed: int = 0,
    shard_bytes: int = 1 << 30,
    progress: ProgressCallback | None = None,
) -> tuple[Manifest, list[Solved]]:
    """Run a plan on a language model, replace its layers and write the checkpoint.

    Raises:
        OutputError: the folder cannot be written.
    """
    claim_folder(folder)
    writer = _writer(model, folder, made.recipe() | {"seed": seed}, shard_bytes)
    done = []
    for solved in solve(made, seed, progress):
        packed = PackedWeight.of(solved.weight)
        put(model.module, solved.layer.name, packed_module(solved.layer.target.module, packed, made.activations))
        write_packed(writer, solved.layer.name, model.module.get_submodule(solved.layer.name))
        done.append(solved)
    keep_dense(model.module)
    return finish(writer, model, folder), done


def save(model: Model, folder: str | Path, *, recipe: Mapping[str, Any] | None = None, shard_bytes: int = 1 << 30) -> Manifest:
    """Write a model, quantized or not, as a checkpoint: ``lowbit.save(model, DIR)``; ``lowbit.load(DIR)`` reads it.

    Raises:
        OutputError: the folder is not empty, or cannot be written.
    """
    place = Path(folder)
    claim_folder(place)
    writer = _writer(model, place, dict(recipe or {}), shard_bytes)
    for name, module in model.module.named_modules():
        if isinstance(getattr(module, "weight", None), PackedWeight):
            write_packed(writer, name, module)
    return finish(writer, model, place)


def _writer(model: Model, folder: Path, recipe: dict[str, Any], shard_bytes: int) -> Writer:
    return Writer(folder, Manifest(model.kind, model.name, recipe, notes=list(model.notes)), shard_bytes)


def write_packed(writer: Writer, name: str, module: nn.Module) -> None:
    """Add a packed layer, weight and bias."""
    assert isinstance(module, Linear | Embedding | Convolution)
    activations = getattr(module, "activations", None)
    writer.add_packed(name, type(module).__name__, module.weight, None if activations is None else text(activations))


def finish(writer: Writer, model: Model, folder: Path) -> Manifest:
    """Add every tensor that no packed layer holds, the assets and the manifest."""
    packed = tuple(f"{name}.weight." for name in writer.manifest.layers)
    for name, tensor in model.module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and not name.startswith(packed):
            writer.add(name, tensor)
    model.save_assets(folder)
    return writer.finish()
