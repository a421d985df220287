"""Philox: the known answers of its authors' library, and noise that depends on the key and the index alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowbit.philox import Key, block, noise

#: counter, key, result: Random123, tests/kat_vectors, philox4x32 with 10 rounds
KNOWN = [
    ([0x00000000] * 4, [0x00000000] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0], [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]


@pytest.mark.parametrize("counter, key, result", KNOWN)
def test_known_answers(counter, key, result):
    words = block(tuple(torch.tensor([c]) for c in counter), tuple(key))
    assert words.tolist() == [result]


def reference(counter, key):
    """Ten rounds with Python's integers (Salmon et al. 2011, section 3.3)."""
    counter, key = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & 0xFFFFFFFF, (a >> 32) ^ counter[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


word = st.integers(0, 2**32 - 1)


@given(st.tuples(word, word, word, word), st.tuples(word, word))
def test_it_is_the_definition(counter, key):
    assert block(tuple(torch.tensor(c) for c in counter), key).tolist() == reference(counter, key)


def test_element_i_is_word_i_mod_4_of_counter_i_div_4():
    key = Key(3, "w")
    words = noise(key, (10,)).tolist()
    assert words == [reference((i // 4, 0, 0, 0), key.words())[i % 4] for i in range(10)]


def test_indices_beyond_32_bits():
    start = 4 * 2**32 - 3
    words = noise(Key(3), (6,), start=start).tolist()
    want = [reference(((i // 4) & 0xFFFFFFFF, i // 4 >> 32, 0, 0), Key(3).words())[i % 4] for i in range(start, start + 6)]
    assert words == want


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_any_part_is_cut_out_of_the_whole(a, b, c):
    whole = noise(Key(1, "x"), (a + b + c,))
    assert torch.equal(noise(Key(1, "x"), (b,), start=a), whole[a : a + b])


def test_the_shape_does_not_matter():
    assert torch.equal(noise(Key(1), (3, 5, 7)).flatten(), noise(Key(1), (105,)))
    assert noise(Key(1), ()).shape == () and noise(Key(1), (0, 4)).shape == (0, 4)


@pytest.mark.parametrize("change", [{"seed": 1}, {"tensor": "b"}, {"role": "gradient"}, {"step": 1}, {"rank": 1}])
def test_every_part_of_the_key_counts(change):
    key = Key(0, "a", "weight", 0, 0)
    assert key.words() != key._replace(**change).words()
    assert not torch.equal(noise(key, (64,)), noise(key._replace(**change), (64,)))


def test_the_words_of_a_key_are_fixed():
    """A change here changes every stochastic result ever written down."""
    assert Key(0).words() == (3949434028, 1554823047)
    assert Key(7, "model.layers.0", "weight", 3, 1).words() == (145063548, 1609519278)


def test_the_words_are_uniform():
    """Mean of each bit, and the counts of the top byte by a chi-squared test."""
    words = noise(Key(5), (1 << 18,)).numpy()
    for bit in range(32):
        assert abs((words >> bit & 1).mean() - 0.5) < 4 * 0.5 / 2**9
    counts = np.bincount(words >> 24, minlength=256)
    expected = len(words) / 256
    chi = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi - 255) < 4 * np.sqrt(2 * 255)
    assert words.min() >= 0 and words.max() < 2**32
