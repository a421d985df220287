"""Kernels of the C++ extension ``lowbit._cpu``."""
