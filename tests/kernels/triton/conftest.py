"""Triton's interpreter, which runs kernels on the CPU: ``TRITON_INTERPRET=1 pytest tests/kernels/triton``, as `make test` does."""

from __future__ import annotations

import pytest

from lowbit.kernels import op


@pytest.fixture
def interpreter() -> None:
    """Tensors of the CPU are taken by Triton's kernels. It has to be on before anything imports triton, so in a process of its own."""
    pytest.importorskip("triton", reason="triton is not installed; pip install 'lowbit[triton]' brings it")
    if not op.interpreted():
        pytest.skip("Triton's interpreter is off; TRITON_INTERPRET=1 turns it on")
