"""Modules that hold quantized weights, and how they take the place of others."""
