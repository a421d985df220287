"""Calibration data: windows of texts, one sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lowbit.data.text import Text, load_text
from lowbit.errors import DataError
from lowbit.models.model import LanguageModel
from lowbit.recipes.plan import Plan
from lowbit.recipes.walk import Source

#: tokens of the one sequence that shows how a model is wired, where no data are needed
SHORT = 64


def calibration_source(
    model: LanguageModel, plans: Sequence[Plan], texts: Text | str | Sequence[Text | str], sequences: int = 32, length: int = 512
) -> Source:
    """What the methods see of the data; empty where none of them needs any, and one short sequence of the first tokens where
    transforms need to run the model, but nothing of what it is run on.

    Raises:
        DataError: a method needs data and no text is named, or the texts are too short.
    """
    if not any(p.calibrated for p in plans):
        wired = [torch.arange(min(SHORT, model.context))[None]] if any(p.transforms for p in plans) else []
        return Source(wired, model.logits)
    if isinstance(texts, str | Text):
        texts = [texts]
    if not texts:
        named = next(p for p in plans if p.calibrated)
        raise DataError(f"the method {named.method} needs calibration data: name a text, as with --calibrate pydoc")
    read = [load_text(t) if isinstance(t, str) else t for t in texts]
    return Source(samples(model, read, sequences, length), model.logits)


def samples(model: LanguageModel, texts: Sequence[Text], count: int, length: int) -> list[Tensor]:
    """Calibration sequences: windows of the texts from their beginnings, one text after the other in turn.

    Shapes:
        result  ``count`` tensors (1, length) int64

    Raises:
        DataError: the texts are too short, or a sequence is longer than the model's context.
    """
    if count < 1 or length < 2 or length > model.context:
        raise DataError(f"{count} calibration sequences of {length} tokens; take at least 1 of 2 to {model.context} tokens")
    shares = [count // len(texts) + (i < count % len(texts)) for i in range(len(texts))]
    cut = []
    for text, share in zip(texts, shares, strict=True):
        ids = model.encode(text.content)
        if len(ids) < share * length:
            raise DataError(f"text {text.name!r} has {len(ids)} tokens; {share} calibration sequences of {length} take {share * length}")
        cut.append(ids[: share * length].reshape(share, 1, length))
    return [windows[i] for i in range(max(shares)) for windows in cut if i < len(windows)]
