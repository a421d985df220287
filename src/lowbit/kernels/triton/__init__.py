"""Kernels in Triton for tensors on a CUDA device."""
