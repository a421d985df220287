"""Models larger than memory: parameters stay in their safetensors files until a block needs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lowbit.errors import ModelError
from lowbit.models.huggingface import HuggingFace
from lowbit.nn.graph import block_names


class Streamed(HuggingFace):
    """A Hugging Face folder whose parameters are on the meta device; ``resident`` brings a block's into memory.

    Attributes:
        dtype: what parameters are computed in.
        tied: name -> name of the parameter that it shares its numbers with.
    """

    streamed = True

    def __init__(self, name: str, module: Any, tokenizer: Any, places: dict[str, Path], dtype: torch.dtype):
        super().__init__(name, module, tokenizer)
        self.places = places
        self.dtype = dtype
        self.blocks = tuple(block_names(module))
        first: dict[int, str] = {}
        names = [(n, first.setdefault(id(p), n)) for n, p in module.named_parameters(remove_duplicate=False)]
        self.tied = {name: source for name, source in names if name != source}

    @classmethod
    def open(cls, folder: str, dtype: torch.dtype | None = None) -> Streamed:
        """Open a folder with safetensors files.

        Raises:
            ModelError: it is no such folder, or a parameter of the model is in none of its files.
        """
        path = Path(folder)
        if not path.is_dir() or not any(path.glob("*.safetensors")):
            raise ModelError(f"{folder!r} holds no safetensors files; a bound on memory (--memory) needs a folder that does")
        plain = HuggingFace.empty(path, folder)
        places = _index(path)
        model = cls(folder, plain.module, plain.tokenizer, places, dtype or torch.float32)
        missing = [n for n, _ in model.module.named_parameters() if n not in places]
        if missing:
            raise ModelError(f"{folder!r} lacks {len(missing)} tensors of its model, the first is {missing[0]!r}")
        return model

    def read(self, name: str) -> Tensor:
        """One parameter, in the dtype of computation.

        Raises:
            ModelError: the file is missing, truncated or damaged.
        """
        name = self.tied.get(name, name)
        path = self.places[name]
        try:
            with safe_open(path, "pt") as file:
                return file.get_tensor(name).to(self.dtype)  # type: ignore[no-any-return]
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{str(path)!r} is missing, truncated or damaged: {error}") from error

    def stored_nbytes(self) -> int:
        """Bytes of all parameters as they are stored."""
        return sum(path.stat().st_size for path in set(self.places.values()))

    @contextmanager
    def resident(self, name: str, head: bool = False) -> Iterator[None]:
        """The parameters of a block are in memory inside; ``""`` stands for all outside the blocks, the output layer only with ``head``."""
        loaded = []
        last = None if head else self._head()
        kept_away = set() if last is None else {id(p) for p in last.parameters()}
        table = self._table()
        kept_away -= set() if table is None else {id(p) for p in table.parameters()}
        for full, parameter in list(self.module.named_parameters()):
            mine = full.startswith(name + ".") if name else not full.startswith(tuple(b + "." for b in self.blocks))
            if mine and parameter.device.type == "meta" and id(parameter) not in kept_away:
                here = nn.Parameter(self.read(full), requires_grad=False)
                names = [full, *(alias for alias, source in self.tied.items() if head and source == full)]
                for each in names:
                    self._set(each, here)
                loaded.append(names)
        try:
            yield
        finally:
            for names in loaded:
                current = self._get(names[0])
                away = None if current is None else nn.Parameter(torch.empty_like(current, device="meta"), requires_grad=False)
                for each in names:
                    if away is not None and self._get(each) is not None:
                        self._set(each, away)

    def _get(self, name: str) -> nn.Parameter | None:
        owner, _, leaf = name.rpartition(".")
        try:
            return self.module.get_submodule(owner)._parameters.get(leaf)
        except AttributeError:
            return None

    def _set(self, name: str, parameter: nn.Parameter) -> None:
        owner, _, leaf = name.rpartition(".")
        self.module.get_submodule(owner)._parameters[leaf] = parameter


def _index(folder: Path) -> dict[str, Path]:
    """Tensor name -> file."""
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            found = {n: folder / f for n, f in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
            outside = [n for n, p in found.items() if p.parent != folder]
            if outside:
                raise ModelError(f"{str(index)!r} points outside of its folder for {outside[0]!r}")
            return found
        found = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                found |= dict.fromkeys(file.keys(), path)
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise ModelError(f"the safetensors files of {str(folder)!r} cannot be read: {error}") from error
    return found
