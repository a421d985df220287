"""Writing a checkpoint shard by shard; each file appears whole or not at all, the manifest comes last."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lowbit.checkpoint.layout import DTYPES, MANIFEST, Manifest, StoredTensor, digest, file_digests, narrowed, shard_name
from lowbit.errors import OutputError, UnsupportedError
from lowbit.nn.packed import PackedWeight


def claim_folder(folder: Path, *, resume: bool = False) -> None:
    """Make sure that a checkpoint can be written there, before any work.

    Raises:
        OutputError: the folder is not empty, or cannot be made.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{str(folder)!r} is a file; name a folder for the checkpoint")
        if folder.is_dir() and any(folder.iterdir()) and not resume:
            raise OutputError(f"the output folder {str(folder)!r} is not empty; name another, or empty it")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the output folder {str(folder)!r} cannot be made: {error.strerror}") from error


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Claim a folder for the block; when the block fails, what it wrote is removed, and so are the folders made here.

    Raises:
        OutputError: as ``claim_folder``.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    claim_folder(folder)
    try:
        yield
    except BaseException:
        for file in folder.iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        for place in made:
            place.rmdir()
        raise


def check_file(path: Path) -> None:
    """Make sure before long work that a file can be written there.

    Raises:
        OutputError: it is a folder, or lies in none.
    """
    if path.is_dir():
        raise OutputError(f"{str(path)!r} is a folder; name a file")
    if not path.parent.is_dir():
        raise OutputError(f"{str(path)!r} cannot be written: there is no folder {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{str(path)!r} cannot be written: the folder {str(path.parent)!r} refuses")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well, and is removed when it does not.

    Raises:
        OutputError: the disk is full or refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        room = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise OutputError(f"{str(path)!r} cannot be written: {room}") from error
    finally:
        temporary.unlink(missing_ok=True)


class Writer:
    """Collects tensors and writes them in shards.

    Args:
        folder: claimed before.
        manifest: filled on the way.
        shard_bytes: a shard is written when it holds this much.
    """

    def __init__(self, folder: Path, manifest: Manifest, shard_bytes: int = 1 << 30):
        self.folder = folder
        self.manifest = manifest
        self.shard_bytes = shard_bytes
        self._waiting: dict[str, Tensor] = {}
        self._meaning: dict[str, str] = {}
        self._waiting_bytes = 0
        self._shards = 0
        self._packed: weakref.WeakKeyDictionary[PackedWeight, str] = weakref.WeakKeyDictionary()
        self._places: dict[tuple[int, tuple[int, ...], torch.dtype], tuple[str, weakref.ref[Tensor]]] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """A tensor under its own name; one that lies where another one lies that was added before is noted as tied."""
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.dtype)
        first, there = self._places.get(place, ("", None))
        if tensor.numel() and there is not None and there() is not None:  # the memory of a tensor that is gone may be used again
            self.manifest.tied[name] = first
            return
        self._places[place] = (name, weakref.ref(tensor))
        self._put(name, narrowed(tensor.detach()), tensor.dtype)

    def add_packed(self, name: str, module: str, weight: PackedWeight, activations: str | None = None, **facts: Any) -> None:
        """A packed weight of the layer ``name``; one that was added for another layer is noted as tied."""
        self.manifest.layers[name] = {
            "module": module, "shape": list(weight.shape), "terms": weight.describe(), "activations": activations, **facts,
        }  # fmt: skip
        first = self._packed.setdefault(weight, name)
        for part, tensor in weight.parts().items():
            if first != name:
                self.manifest.tied[f"{name}.weight.{part}"] = f"{first}.weight.{part}"
            else:
                self._put(f"{name}.weight.{part}", tensor, tensor.dtype)

    def _put(self, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
        meaning = str(dtype).removeprefix("torch.")
        if meaning not in DTYPES:
            raise UnsupportedError(f"{name!r} is {meaning}, which a checkpoint does not hold; it holds {', '.join(DTYPES)}")
        self._waiting[name] = tensor.cpu().contiguous().clone()
        self._meaning[name] = meaning
        self._waiting_bytes += tensor.numel() * tensor.element_size()
        if self._waiting_bytes >= self.shard_bytes:
            self.flush()

    def start_at(self, shards: int) -> None:
        """Number the shards that follow from ``shards`` + 1 on."""
        self._shards = shards

    def flush(self) -> None:
        """Write what waits as one shard."""
        if not self._waiting:
            return
        self._shards += 1
        file = shard_name(self._shards)
        write_shard(self.folder / file, self._waiting)
        for name, tensor in self._waiting.items():
            stored = str(tensor.dtype).removeprefix("torch.")
            self.manifest.tensors[name] = StoredTensor(file, tuple(tensor.shape), stored, self._meaning[name], digest(tensor))
        self._waiting, self._meaning, self._waiting_bytes = {}, {}, 0

    def finish(self) -> Manifest:
        """Write the last shard and the manifest."""
        self.flush()
        self.manifest.files = file_digests(self.folder)
        self.manifest.versions = versions()
        with whole(self.folder / MANIFEST) as path:
            path.write_text(self.manifest.text(), encoding="utf-8")
        return self.manifest


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors as one safetensors file, whole or not at all.

    Raises:
        OutputError: the disk is full or refuses.
    """
    with whole(path) as temporary:
        try:
            save_file(dict(tensors), temporary)
        except Exception as error:  # safetensors wraps what the system said
            if isinstance(error, OSError):
                raise
            raise OSError(errno.ENOSPC if "space" in str(error).lower() else errno.EIO, str(error)) from error


def versions() -> dict[str, str]:
    """Versions that the bytes may depend on."""
    try:
        own = version("lowbit")
    except PackageNotFoundError:
        own = "0 (not installed)"
    return {"lowbit": own, "torch": torch.__version__, "python": platform.python_version()}
