"""The contract of a language model: what evaluation, quantization and generation need of it."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from lowbit.kv_cache.kv_cache import KVCache
from lowbit.nn.decoder import FusedDecoder


class LanguageModel(Protocol):
    """A causal language model with its tokenizer.

    Attributes:
        name: what the user asked for (``builtin``, a path, a hub id).
        module: the torch module whose Linear and Embedding layers are quantized.
        context: the longest sequence that it was made for, in tokens.
        kind: ``builtin`` or ``huggingface``; says who rebuilds it from a checkpoint.
        usual_text: the name of the text that it is measured on when none is named.
        notes: what to know about its figures.
        kv: in how many bits keys and values of tokens seen are kept, when generating and when texts are scored; None keeps them as they
            are. Scored tokens enter the cache 64 at a time, and see each other as they are.
    """

    name: str
    module: nn.Module
    context: int
    kind: str
    usual_text: str
    notes: tuple[str, ...]
    kv: KVCache | None

    def encode(self, text: str) -> Tensor:
        """Token ids of a text, (tokens,) int64, without special tokens."""

    def decode(self, ids: Tensor) -> str:
        """The text of token ids (tokens,)."""

    def logits(self, ids: Tensor) -> Tensor:
        """Scores of the next token at each place: ids (batch, length) int64 -> (batch, length, vocabulary) float32."""

    def generate(self, prompt: str, max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0, chat: bool = False) -> str:
        """What the model adds to the prompt; temperature 0 takes the likeliest token. ``chat`` applies the chat template."""

    def extend(self, ids: Tensor, count: int, temperature: float = 0.0, seed: int = 0, *, to_the_end: bool = False) -> Tensor:
        """Ids (batch, length) with up to ``count`` tokens more, the prompt first; ``to_the_end`` lets no stop token stop it."""

    def fused(self) -> FusedDecoder | str:
        """The decoder that generation runs in one call a step, or why it runs module by module."""

    def save_assets(self, folder: Path) -> None:
        """Write what a checkpoint needs beside the weights: configuration, tokenizer, chat template, generation settings."""


def device_of(module: nn.Module) -> torch.device:
    """The device of the first parameter or buffer; the CPU where there is none."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device
