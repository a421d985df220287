"""ggml's tables, against the gguf package."""

import pytest

from lowbit.formats.ggml import e2m1, iq4_nl, minima, offset_integers

quants = pytest.importorskip("gguf.quants")


def test_tables():
    assert iq4_nl.values == quants.IQ4_NL.kvalues
    assert [2 * v for v in e2m1.values] == list(quants.MXFP4.kvalues)
    assert offset_integers(4).values == tuple(range(-8, 8)) and minima(4).values == tuple(-v for v in range(16))
