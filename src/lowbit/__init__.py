"""lowbit: one coherent system for low-precision neural networks."""

from lowbit import nn
from lowbit.catalog import find
from lowbit.checkpoint.reading import load, open_model
from lowbit.evaluation.measure import evaluate
from lowbit.evaluation.sweep import compare
from lowbit.formats.table import TableFormat
from lowbit.quantizers.emulate import fake_quantize
from lowbit.quantizers.spec import quantizer
from lowbit.recipes.export import save
from lowbit.recipes.quantize import quantize

__all__ = ["TableFormat", "compare", "evaluate", "fake_quantize", "find", "load", "nn", "open_model", "quantize", "quantizer", "save"]
