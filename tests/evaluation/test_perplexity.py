"""Perplexity: which tokens are scored, that the sums are right, in one order, a window at a time."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowbit.errors import DataError, NonFiniteError, ShapeError
from lowbit.evaluation.perplexity import CHUNK, log_total, score, windows

TEXT = "The quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs. " * 6


def stream(n):
    return torch.arange(n)


@given(st.integers(2, 60), st.integers(2, 20), st.data())
def test_overlapping_windows_score_each_token_once_with_enough_before_it(n, length, data):
    stride = data.draw(st.integers(1, length - 1))
    cut = windows(stream(n), length, stride)
    scored = [int(token) for window in cut for token in window.ids[window.first :]]
    assert scored == list(range(1, 1 + len(scored)))
    assert n < length or n - 1 - scored[-1] < stride
    for window in cut:
        assert torch.equal(window.ids, stream(n)[window.start : window.start + len(window.ids)])
        assert window.scored == len(window.ids) - window.first
    for window in cut[1:]:
        assert window.first == length - stride


@given(st.integers(2, 60), st.integers(2, 20))
def test_separate_windows_score_all_but_their_first_token(n, length):
    cut = windows(stream(n), length)
    if n < length:
        assert len(cut) == 1 and torch.equal(cut[0].ids, stream(n)) and cut[0].first == 1
        return
    expected = stream(n)[: n // length * length].view(-1, length)  # as in the usual recipe: whole windows only
    assert torch.equal(torch.stack([window.ids for window in cut]), expected)
    assert {window.first for window in cut} == {1}


def test_a_limit_takes_the_first_tokens():
    assert [window.start for window in windows(stream(100), 10, limit=39)] == [0, 10, 20]
    (short,) = windows(stream(100), 10, limit=4)
    assert short.ids.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "n, arguments, message",
    [
        (0, (8,), "a text of 0 tokens scores nothing; give a text with at least 2"),
        (1, (8,), "a text of 1 tokens scores nothing"),
        (9, (1,), "a window of 1 tokens scores nothing; take 2 or more"),
        (9, (8, 0), "stride 0 does not fit a window of 8 tokens; take 1 to 8"),
        (9, (8, 9), "stride 9 does not fit a window of 8 tokens"),
        (9, (8, 8, 1), "at most 1 tokens a text scores nothing; take 2 or more"),
        (9, (8, 8, -3), "at most -3 tokens a text"),
    ],
)
def test_what_cannot_be_cut(n, arguments, message):
    with pytest.raises(DataError, match=message):
        windows(stream(n), *arguments)


@pytest.mark.parametrize("length, stride", [(32, None), (32, 32), (32, 5), (32, 1), (1024, None)])
@pytest.mark.parametrize("vocabulary", [17, 256, 3000])
def test_the_loss_is_that_of_each_token_given_its_window(table_model, log_softmax, vocabulary, length, stride):
    model = table_model(vocabulary)
    ids = model.encode(TEXT)[:200]
    found = score(model, "t", windows(ids, length, stride), stride)

    step, size = stride or length, min(length, len(ids))
    nll, tokens, count, done = 0.0, 0, 0, 0  # done: the last token scored so far
    for start in range(0, len(ids) - size + 1, step):
        before = start if step == length else done
        said = log_softmax(model, ids[start : start + size])
        for token in range(max(before, start) + 1, start + size):
            nll -= said[token - 1 - start, ids[token]].item()
            tokens, done = tokens + 1, token
        count += 1
    assert (found.text, found.tokens, found.windows, found.window) == ("t", tokens, count, size)
    assert found.nll == pytest.approx(nll, rel=1e-7)
    assert found.loss == found.nll / tokens
    assert found.perplexity == pytest.approx(math.exp(nll / tokens), rel=1e-6)


def test_a_model_that_knows_nothing_wavers_between_all_tokens(table_model):
    model = table_model(50, scale=0.0)
    assert score(model, "t", windows(model.encode(TEXT), 16)).perplexity == pytest.approx(50, rel=1e-7)


def test_threads_change_no_bit(table_model):
    model = table_model(70_000)
    cut = windows(model.encode(TEXT)[:40], 20)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            found.append(score(model, "t", cut))
    finally:
        torch.set_num_threads(before)
    assert found.count(found[0]) == 4


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=5, max_size=5), min_size=1, max_size=4))
def test_log_total_is_logsumexp(rows):
    x = np.array(rows, dtype=np.float32)
    expected = torch.logsumexp(torch.tensor(rows, dtype=torch.float64), 1).numpy()
    np.testing.assert_allclose(log_total(x), expected, rtol=2e-7, atol=2e-7)


def test_log_total_of_infinities():
    x = np.array([[-np.inf, -np.inf], [-np.inf, 2.5], [np.inf, 0], [np.nan, 0]], dtype=np.float32)
    assert log_total(x)[:2].tolist() == [-np.inf, 2.5]
    assert np.isnan(log_total(x)[2:]).all()


def test_log_total_of_a_large_vocabulary_is_far_better_than_float32():
    x = 3 * torch.randn(4, 2**18, generator=torch.Generator().manual_seed(0))
    exact = torch.logsumexp(x.double(), 1)
    assert np.abs(log_total(x.numpy()) - exact.numpy()).max() < 1e-7


def test_a_large_vocabulary_needs_little_beyond_its_logits(table_model):
    model = table_model(2**18)
    cut = windows(model.encode(TEXT)[:24], 24)
    tracemalloc.start()  # sees what numpy holds; the logits are torch's
    score(model, "t", cut)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * CHUNK * 4 < 24 * 2**18 * 4 / 4


def test_a_loss_that_is_not_finite_names_the_window(table_model):
    model = table_model()
    ids = model.encode(TEXT)
    right = model.logits

    def wrong(given):
        out = right(given)
        if torch.equal(given[0], ids[64:96]):
            out[0, 7, 3] = math.nan
        return out

    model.logits = wrong
    with pytest.raises(
        NonFiniteError, match=r"text 't', window 2 \(tokens 64 to 95\): the loss is nan; the logits of table hold NaN or Inf"
    ):
        score(model, "t", windows(ids, 32))


def test_a_token_that_is_ruled_out_is_an_infinite_loss(table_model):
    model = table_model()
    ids = model.encode(TEXT)
    model.table[:, ids[5]] = -math.inf
    with pytest.raises(NonFiniteError, match=r"window 0 \(tokens 0 to 31\): the loss is inf"):
        score(model, "t", windows(ids, 32))


def test_a_hopeless_model_has_infinite_perplexity_and_a_finite_loss(table_model):
    model = table_model(scale=3000.0)
    found = score(model, "t", windows(model.encode(TEXT), 32))
    assert found.perplexity == math.inf and 709 < found.loss < 1e5


def test_logits_of_the_wrong_shape(table_model):
    model = table_model(20)
    right = model.logits
    model.logits = lambda ids: right(ids)[:, 1:]
    with pytest.raises(ShapeError, match=r"the logits of table are \(1, 31, 20\); they should be \(1, 32, vocabulary\)"):
        score(model, "t", windows(model.encode(TEXT), 32))
