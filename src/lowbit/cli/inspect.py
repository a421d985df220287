"""lowbit inspect DIR: what a checkpoint holds."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lowbit.checkpoint.difference import differences
from lowbit.checkpoint.layout import read_manifest
from lowbit.checkpoint.reading import Tensors, check_files


def run(
    folder: Annotated[Path, typer.Argument(help="a checkpoint folder")],
    verify: Annotated[bool, typer.Option("--verify", help="read every tensor and compare its digest")] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            help="another checkpoint: say which tensors differ and by how much; equal digests are believed unless --verify is given"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the manifest as JSON")] = False,
) -> None:
    """Show what a checkpoint holds: layers, formats, bits, digests, versions."""
    manifest = read_manifest(folder)
    if compare is not None:
        for place in (compare, folder) if verify else ():
            _verify(place)
        _compare(compare, folder, verify)
        return
    if as_json:
        print(json.dumps(json.loads(manifest.text()) | {"digest": manifest.digest, "nbytes": manifest.nbytes}))
        return
    own, torch = (manifest.versions.get(name, "?") for name in ("lowbit", "torch"))
    print(f"{manifest.source} ({manifest.kind}), lowbit {own}, torch {torch}")
    print("recipe: " + (", ".join(f"{k} {v}" for k, v in manifest.recipe.items() if v not in (None, {}, [])) or "not known"))
    drawn = Table("layer", "module", "shape", "stored as", "bits", "bytes")
    packed = 0
    for name, facts in manifest.layers.items():
        nbytes, count = manifest.layer_nbytes(name), math.prod(facts["shape"])
        packed += nbytes
        terms = " + ".join(t.get("spec", t["kind"]) for t in facts["terms"])
        drawn.add_row(name, facts["module"], "x".join(map(str, facts["shape"])), terms, f"{8 * nbytes / max(1, count):.3f}", str(nbytes))
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140).print(drawn)
    rest, whole = (manifest.nbytes - packed) / 1e6, manifest.nbytes / 1e6
    print(f"other tensors {rest:.2f} MB, in all {whole:.2f} MB; tied: {manifest.tied or 'none'}")
    for note in manifest.notes:
        print(f"note: {note}")
    if verify:
        _verify(folder)
    print(f"digest {manifest.digest}")


def _verify(folder: Path) -> None:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    tensors = Tensors(folder, manifest)
    for name in manifest.tensors:
        tensors[name]
    print(f"all {len(manifest.tensors)} tensors of {folder} match their digests")


def _compare(a: Path, b: Path, verified: bool) -> None:
    found = list(differences(a, b))
    drawn = Table("layer or tensor", "what", "codes that differ", "relative squared difference", "largest")
    for each in found:
        shown = ["" if v is None else f"{v:.3g}" for v in (each.codes, each.relative, each.largest)]
        drawn.add_row(each.name, each.what, *shown)
    if found:
        Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140).print(drawn)
    one, two = read_manifest(a).digest, read_manifest(b).digest
    nothing = "nothing differs" if verified else "nothing differs by the recorded digests (--verify reads every tensor)"
    print(f"{len(found)} layers or tensors differ; digests {one} and {two}" if found else f"{nothing}; digest {one}")
