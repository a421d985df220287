"""Modules that hold quantized weights, and how they take the place of others."""

from lowbit.nn.convolution import Convolution
from lowbit.nn.embedding import Embedding
from lowbit.nn.linear import Linear
from lowbit.nn.packed import view

__all__ = ["Convolution", "Embedding", "Linear", "view"]
