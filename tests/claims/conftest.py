"""Rows as ``losses`` gives them, and a model so small that a whole claim takes a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch

from lowbit.claims.claim import Budget, Figures
from lowbit.claims.subjects import Subject
from lowbit.data.text import Text
from lowbit.models.builtin import Builtin
from lowbit.models.llama import Llama, LlamaConfig

Rows = list[dict[str, Any]]


@pytest.fixture
def rows() -> Callable[..., Rows]:
    """``rows({("int4 g64", "rtn"): 0.1, ...})``: one model and text unless said otherwise."""

    def make(extra: Mapping[tuple[str, str], float], model: str = "m", text: str = "t") -> Rows:
        return [
            {"model": model, "weights": w, "solver": s, "text": text, "bits": 4.0, "loss": 1.0 + e, "extra": e}
            for (w, s), e in extra.items()
        ]

    return make


@pytest.fixture
def tiny_subjects() -> Callable[[Budget, float, Figures], Iterator[Subject]]:
    """Takes the place of ``subjects``: a random model, and the note that another one was left out."""

    def make(budget: Budget, minutes: float, figures: Figures) -> Iterator[Subject]:
        torch.manual_seed(0)
        model = Builtin(Llama(LlamaConfig(256, 64, 128, 1, 2, 1, 32, 512)).eval(), 512, "tiny")
        words = "".join(chr(97 + (i * i) % 26) for i in range(1200))
        yield Subject("tiny", model, Text("first", words[:600]), (Text("second", words[600:]),), 500, 1)
        figures["left out"] = [{"what": "another", "why": "it is not here"}]

    return make
