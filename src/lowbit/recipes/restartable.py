"""Runs that can be killed anywhere and started again with the same result.

While a run is under way its folder holds ``run.json`` (what is being done, with a fingerprint of every input), one
shard a finished unit, and beside each shard ``unit-00001.json`` with the entries of the manifest; that file appears
last, so a unit is finished or it is not. The manifest ends the run; the other files are removed then.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lowbit.checkpoint.layout import Manifest, StoredTensor, digest, shard_name
from lowbit.checkpoint.reading import Model, Tensors
from lowbit.checkpoint.writing import Writer, claim_folder, versions, whole
from lowbit.errors import CheckpointError, OutputError
from lowbit.models.streaming import Streamed
from lowbit.nn.change import CHILD, describe
from lowbit.nn.packed import PackedWeight, keep_dense
from lowbit.nn.replace import packed_module, put
from lowbit.progress import ProgressCallback
from lowbit.recipes.calibrate import Before, Finished, Unit, calibrate
from lowbit.recipes.export import finish, finish_assets, write_packed
from lowbit.recipes.plan import Plan
from lowbit.recipes.solved import Solved
from lowbit.recipes.transforming import Edits
from lowbit.recipes.walk import Source

RUN = "run.json"
HALF_WRITTEN = re.compile(r"\.(run|unit-\d+|lowbit)\.json\.\d+\.part|\.model-\d+\.safetensors\.\d+\.part")


def fingerprint(model: Model, made: Plan, source: Source | None, seed: int) -> dict[str, str]:
    """Digests of everything that the bytes depend on, by what it is, so that a difference can be named."""
    layers = json.dumps([(p.name, p.shape) for p in made.layers])
    data = hashlib.blake2b(digest_size=16)
    for sample in () if source is None else source.samples:
        data.update(digest(sample).encode())
    return {
        "model": model.name,
        "recipe": json.dumps(made.recipe(), sort_keys=True),
        "layers": hashlib.blake2b(layers.encode(), digest_size=16).hexdigest(),
        "other weights": _other_weights(model, made),
        "calibration data": "none" if source is None else data.hexdigest(),
        "seed": str(seed),
        **{f"version of {k}": v for k, v in versions().items()},
    }


def _other_weights(model: Model, made: Plan) -> str:
    """One digest of every parameter that is not quantized; the stream through the blocks depends on them."""
    quantized = {f"{p.name}.weight" for p in made.layers}
    total = hashlib.blake2b(digest_size=16)
    for name, parameter in model.module.named_parameters():
        if name not in quantized:
            total.update(f"{name}\0{digest(model.read(name) if isinstance(model, Streamed) else parameter)}\0".encode())
    return total.hexdigest()


def quantize_restartably(
    model: Model,
    made: Plan,
    folder: Path,
    source: Source | None = None,
    *,
    seed: int = 0,
    shard_bytes: int = 1 << 30,
    progress: ProgressCallback | None = None,
    spill: bool = False,
    room: int | None = None,
) -> tuple[Manifest, list[Finished]]:
    """Run a plan, unit by unit, into a checkpoint folder; a folder with an unfinished run of the same inputs is gone on with.

    Args:
        source: calibration data; None for methods that need none.
        shard_bytes: of the shards that hold what is not quantized; quantized blocks have a shard each.
        spill: keep hidden states in files in the folder.
        room: see ``calibrate``.

    Raises:
        OutputError: the folder holds something else, or cannot be written; finished units stay.
        LowbitError: what ``calibrate`` raises; finished units stay.
    """
    mark = fingerprint(model, made, source, seed)
    enter(folder, mark)
    writer = Writer(folder, Manifest(model.kind, model.name, made.recipe() | {"seed": seed}, notes=list(model.notes)), shard_bytes)
    streamed = isinstance(model, Streamed)
    resident = model.resident if isinstance(model, Streamed) else None
    seen = Source((), model.logits) if source is None else source
    finished: dict[int, dict[str, Any]] = {}
    originals: dict[int, dict[str, str]] = {}

    def known(unit: Unit) -> Before | None:
        before = "" if unit.index == 0 else json.dumps(originals[unit.index - 1])
        originals[unit.index] = _originals(unit) | {"": hashlib.blake2b(before.encode(), digest_size=16).hexdigest()}  # and of all before
        entry = _read_unit(folder, unit, mark, originals[unit.index])
        if entry is None:
            return None
        finished[unit.index] = entry
        return Before(entry["weights"], entry["biases"])

    done: list[Finished] = []
    last = 0
    edits = Edits(model.module, [p.name for p in made.layers], undoable=False)
    run = calibrate(
        model.module, made, seen, seed=seed, progress=progress, known=known, resident=resident, spill=folder if spill else None, room=room,
        edits=edits,
    )  # fmt: skip
    for each in run:
        last = max(last, each.unit.index + 1)
        if each.unit.index in finished:
            _adopt(writer.manifest, finished.pop(each.unit.index), each)
        elif each.unit.layers:
            _write_unit(writer, folder, each, made, mark, originals[each.unit.index])
        for solved in [] if streamed else each.solved:
            packed = PackedWeight.of(solved.weight)
            inputs = each.inputs.get(solved.layer.name, made.activations)
            put(model.module, solved.layer.name, packed_module(solved.layer.target.module, packed, inputs))
        each.figures = {s.layer.name: _figures(s) for s in each.solved}
        each.solved.clear()
        done.append(each)
    writer.start_at(last)
    writer.manifest.measured["layers"] = {name: found for f in done for name, found in f.figures.items()}
    if isinstance(model, Streamed):
        _add_rest(writer, model, edits)
        manifest = finish_assets(writer, model, folder)
    else:
        keep_dense(model.module)
        manifest = finish(writer, model, folder)
    for path in [*folder.glob("unit-*.json"), folder / RUN]:  # the run is over when its last file goes
        path.unlink(missing_ok=True)
    return manifest, done


def _add_rest(writer: Writer, model: Streamed, edits: Edits) -> None:
    """Every tensor of a streamed model that no packed layer holds, one at a time, and what transforms have changed or added."""
    writer.manifest.changes = describe(model.module)
    written: dict[str, str] = {}
    for name, _ in model.module.named_parameters(remove_duplicate=False):
        if name.rpartition(".")[0] in writer.manifest.layers and name.endswith(".weight"):
            continue
        if name in writer.manifest.tensors:
            continue
        source = model.tied.get(name, name)
        if source in written:
            writer.manifest.tied[name] = written[source]
            continue
        written[source] = name
        writer.add(name, edits.tensors[name] if name in edits.tensors else model.read(name))
    for name, buffer in model.module.named_buffers():
        if f".{CHILD}." in name:
            writer.add(name, buffer)


def check_enterable(folder: Path) -> None:
    """Refuse at once a folder that holds neither nothing nor an unfinished run.

    Raises:
        OutputError: it is a file, or holds something else.
    """
    _sweep(folder)
    if not (folder / RUN).is_file():
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        claim_folder(folder)
        for place in made:
            place.rmdir()


@contextmanager
def unfinished(folder: Path) -> Iterator[None]:
    """When the block fails before any unit is finished, what it wrote is removed; otherwise finished units stay."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        yield
    except BaseException as error:
        if any(folder.glob("unit-*.json")):
            error.add_note("finished units stay: the same command goes on from there")
        elif folder.is_dir():
            for file in set(folder.iterdir()) - before:
                file.unlink()
            for place in made:
                place.rmdir()
        raise


def enter(folder: Path, mark: Mapping[str, str]) -> None:
    """Claim an empty folder for a run, or go on with the unfinished run of the same inputs that it holds.

    Raises:
        OutputError: it holds something else, or a run of other inputs: says which differ.
    """
    path = folder / RUN
    _sweep(folder)
    if not path.is_file():
        claim_folder(folder)
        with whole(path) as temporary:
            temporary.write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        differ = [k for k in mark if there.get(k) != mark[k]]
    except (ValueError, AttributeError, OSError) as error:
        raise OutputError(f"{str(path)!r} is damaged ({error}); name another folder, or empty this one") from error
    if differ:
        raise OutputError(
            f"{str(folder)!r} holds an unfinished run with another {', '.join(differ)}; name another folder, or empty this one"
        )


def _sweep(folder: Path) -> None:
    """Remove what a kill left half written: temporary files of ours that have not taken their place."""
    for file in folder.glob(".*.part"):
        if HALF_WRITTEN.fullmatch(file.name):
            file.unlink()


def _write_unit(writer: Writer, folder: Path, done: Finished, made: Plan, mark: Mapping[str, str], originals: Mapping[str, str]) -> None:
    before, tied = set(writer.manifest.tensors), set(writer.manifest.tied)
    held: list[PackedWeight] = []
    for solved in done.solved:
        weight = PackedWeight.of(solved.weight)
        if not done.unit.name:  # a table and an output layer that were one are written once
            weight = next((other for other in held if other.shape == weight.shape and other.same(weight)), weight)
            held.append(weight)
        packed = packed_module(solved.layer.target.module, weight, done.inputs.get(solved.layer.name, made.activations))
        write_packed(writer, solved.layer.name, packed)
    for name, bias in done.biases.items():
        writer.add(f"{name}.bias", bias)
    writer.start_at(done.unit.index)
    writer.flush()
    entry = {
        "fingerprint": dict(mark),
        "originals": dict(originals),
        "layers": {s.layer.name: writer.manifest.layers[s.layer.name] for s in done.solved},
        "tensors": {n: asdict(t) for n, t in writer.manifest.tensors.items() if n not in before},
        "tied": {n: t for n, t in writer.manifest.tied.items() if n not in tied},
        "figures": {s.layer.name: _figures(s) for s in done.solved},
        "warnings": done.warnings,
        "biases": sorted(done.biases),
    }
    with whole(_unit_path(folder, done.unit)) as temporary:
        temporary.write_text(json.dumps(entry) + "\n", encoding="utf-8")


def _read_unit(folder: Path, unit: Unit, mark: Mapping[str, str], originals: Mapping[str, str]) -> dict[str, Any] | None:
    """The entry of a finished unit with its weights, or None where it is missing, of other inputs or damaged: it is done again then."""
    path = _unit_path(folder, unit)
    if not path.is_file() or not unit.layers:
        return None
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["fingerprint"] != dict(mark) or entry["originals"] != originals:
            return None
        tensors = {n: StoredTensor(**{**t, "shape": tuple(t["shape"])}) for n, t in entry["tensors"].items()}
        if any(t.file != shard_name(unit.index + 1) for t in tensors.values()):
            return None
        if any(source not in tensors for source in entry["tied"].values()):
            return None
        stored = Tensors(folder, Manifest("", "", {}, tensors=tensors, tied=entry["tied"]))
        entry["tensors"] = tensors
        entry["weights"] = {
            name: PackedWeight.described(stored.starting(f"{name}.weight."), facts["shape"], facts["terms"]).unpacked()
            for name, facts in entry["layers"].items()
        }
        entry["biases"] = {name: stored[f"{name}.bias"] for name in entry["biases"]}
    except (CheckpointError, ValueError, KeyError, TypeError):
        return None
    return entry if set(entry["weights"]) == {p.name for p in unit.layers} else None


def _adopt(manifest: Manifest, entry: Mapping[str, Any], done: Finished) -> None:
    manifest.layers.update(entry["layers"])
    manifest.tensors.update(entry["tensors"])
    manifest.tied.update(entry["tied"])
    done.warnings.extend(entry["warnings"])
    done.solved[:] = [Solved(s.layer, s.weight, s.error, entry["figures"][s.layer.name].get("relative output error")) for s in done.solved]


def _unit_path(folder: Path, unit: Unit) -> Path:
    return folder / f"unit-{unit.index + 1:05}.json"


def _originals(unit: Unit) -> dict[str, str]:
    """Digests of a unit's weights before quantization."""
    return {p.name: digest(p.target.matrix) for p in unit.layers}


def _figures(solved: Solved) -> dict[str, float]:
    found = {"relative weight error": solved.error, "weight SQNR dB": solved.sqnr_db}
    if solved.output_error is not None:
        found["relative output error"] = solved.output_error
    return found
