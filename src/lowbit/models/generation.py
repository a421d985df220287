"""Generation through the fused decoder where there is one: what a language model adds to its own way of generating."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lowbit.nn.decoder import FusedDecoder


def fused(known: FusedDecoder | str, module: nn.Module, logits: Callable[[Tensor], Tensor]) -> FusedDecoder | str:
    """The fused decoder of a model, or why its modules run one by one.

    Args:
        known: what was found the last time; taken again where the model is still what it was.
        logits: ids (1, length) to logits (1, length, vocabulary), through the modules.
    """
    if isinstance(known, FusedDecoder) and known.matches(module):
        return known
    return FusedDecoder.of(module, logits)


def decoding_loop(decoder: FusedDecoder) -> Callable[..., Tensor]:
    """A loop for ``custom_generate`` of transformers, which prepares processors and stopping rules and leaves the steps to it."""

    def loop(model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any, **_: Any) -> Tensor:
        session = decoder.session(len(input_ids), generation_config.max_length)
        new = input_ids
        while True:
            scores = logits_processor(input_ids, session.advance(new))
            new = torch.multinomial(scores.softmax(-1), 1) if generation_config.do_sample else scores.argmax(-1, keepdim=True)
            input_ids = torch.cat((input_ids, new), 1)
            if bool(stopping_criteria(input_ids, None).all()):
                return input_ids

    return loop
