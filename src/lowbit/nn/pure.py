"""A block as a pure function: of its weights and its inputs, with no trace left in the block."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


class PureBlock:
    """Runs a block with other weights in the place of its own. Several threads may do so at a time.

    Each thread has a copy of the block's modules around the same parameters and buffers: putting weights into a module for the time of
    a call would be seen by the other threads.

    Args:
        layers: the names inside the block of the layers whose weights are given.
        in_tuple: whether the block returns its hidden state as the first of a tuple.
    """

    def __init__(self, block: nn.Module, layers: Sequence[str], in_tuple: bool) -> None:
        self.block, self.in_tuple = block, in_tuple
        self.like: dict[str, Tensor] = {name: block.get_submodule(name).weight for name in layers}  # type: ignore[misc]
        self.shells = threading.local()

    def _shell(self) -> nn.Module:
        if not hasattr(self.shells, "block"):
            kept = {id(tensor): tensor for tensor in (*self.block.parameters(), *self.block.buffers())}
            self.shells.block = copy.deepcopy(self.block, kept)
        return self.shells.block  # type: ignore[no-any-return]

    def __call__(self, weights: Mapping[str, Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """The block's hidden state for a call; the first argument is the hidden state before.

        Args:
            weights: layer -> its weight as a matrix (out, in); in the dtype of the layer they are computed with.
        """
        placed = {f"{name}.weight": W.reshape(self.like[name].shape).to(self.like[name].dtype) for name, W in weights.items()}
        out = functional_call(self._shell(), placed, (args[0].clone(), *args[1:]), dict(kwargs))  # some blocks work on their input in place
        return out[0] if self.in_tuple else out  # type: ignore[no-any-return]
