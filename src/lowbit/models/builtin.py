"""The model inside the package: a small byte-level Llama trained on the Python standard library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lowbit.errors import DataError, ModelError
from lowbit.kv_cache.kv_cache import CHUNK, KVCache, text
from lowbit.models.generation import fused
from lowbit.models.llama import Cache, Llama, LlamaConfig
from lowbit.models.model import device_of
from lowbit.nn.decoder import FusedDecoder

FOLDER = Path(__file__).resolve().parents[1] / "builtin"


class Builtin:
    """The built-in model; its tokens are the bytes of UTF-8, byte 0 starts a document.

    Attributes:
        notes: what to know about its figures.
    """

    kind = "builtin"
    usual_text = "builtin"
    notes: tuple[str, ...] = ()

    def __init__(self, module: nn.Module, context: int, name: str = "builtin"):
        self.module = module
        self.context = context
        self.name = name
        self.kv: KVCache | None = None
        self._fused: FusedDecoder | str = "not looked for yet"

    @classmethod
    def load(cls, device: str = "cpu", dtype: torch.dtype | None = None) -> Builtin:
        """The trained model, in float32 unless said otherwise.

        Raises:
            ModelError: the package was installed without its data.
        """
        path = FOLDER / "model.safetensors"
        if not path.is_file():
            raise ModelError("the built-in model's weights are missing from this installation; reinstall lowbit")
        model = cls.empty(FOLDER)
        with torch.no_grad():
            state = {k: v.to(dtype or torch.float32) for k, v in load_file(path).items()}
            missing, unknown = model.module.load_state_dict(state, strict=False, assign=True)
        if unknown or [m for m in missing if m != "lm_head.weight"]:
            raise ModelError(f"the built-in weights do not fit the code: missing {missing}, unknown {unknown}; reinstall lowbit")
        model.tie()
        model.module.to(device)
        return model

    @classmethod
    def empty(cls, folder: Path) -> Builtin:
        """The model of a config.json without its weights.

        Raises:
            ModelError: the configuration is missing or damaged.
        """
        try:
            config = LlamaConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{str(folder / 'config.json')!r} cannot be read: {error}") from error
        with torch.device("meta"):
            module = Llama(config)
        return cls(module.eval(), config.max_position_embeddings)

    def tie(self) -> None:
        """Make the output layer share the embedding where the configuration says so."""
        head, table = self.module.lm_head, self.module.model.embed_tokens  # type: ignore[union-attr]
        tied = self.module.config.tie_word_embeddings  # type: ignore[union-attr]
        if tied and isinstance(head, nn.Linear) and isinstance(table, nn.Embedding):
            head.weight = table.weight

    def encode(self, text: str) -> Tensor:
        return torch.tensor(list(text.encode()), dtype=torch.int64)

    def decode(self, ids: Tensor) -> str:
        return bytes(int(i) for i in ids if 0 < int(i) < 256).decode(errors="replace")

    def logits(self, ids: Tensor) -> Tensor:
        ids = ids.to(device_of(self.module))
        with torch.no_grad():
            if self.kv is None:
                return self.module(ids).float()  # type: ignore[no-any-return]
            self._check_cache()
            cache = Cache(self.kv)
            return torch.cat([self.module(part, cache).float() for part in ids.split(CHUNK, 1)], 1)

    def _check_cache(self) -> None:
        """Raises ShapeError where the blocks of the cache's quantizers do not divide its groups of tokens."""
        if self.kv is not None:
            config: Any = self.module.config
            self.kv.check(config.head_dim, config.num_hidden_layers)

    def generate(self, prompt: str, max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0, chat: bool = False) -> str:
        if chat:
            raise DataError("the built-in model has no chat template; give it the start of a Python file")
        ids = torch.cat((torch.zeros(1, dtype=torch.int64), self.encode(prompt)))[None]
        return self.decode(self.extend(ids, max_new_tokens, temperature, seed)[0, ids.shape[1] :])

    def extend(self, ids: Tensor, count: int, temperature: float = 0.0, seed: int = 0, *, to_the_end: bool = False) -> Tensor:
        ids, length = ids.to(device_of(self.module)), ids.shape[1] + count
        self._check_cache()
        decoder = self.fused()
        advance = decoder.session(len(ids), length).advance if isinstance(decoder, FusedDecoder) and length <= self.context else None
        with torch.no_grad():
            return self.module.generate(ids, count, temperature, seed, advance, self.kv)  # type: ignore[operator, no-any-return]

    def fused(self) -> FusedDecoder | str:
        if self.kv is not None:
            return f"its keys and values are kept in {text(self.kv)}"
        self._fused = fused(self._fused, self.module, self.logits)
        return self._fused

    def save_assets(self, folder: Path) -> None:
        config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8")) | self.module.config.to_dict()  # type: ignore[operator, union-attr]
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
