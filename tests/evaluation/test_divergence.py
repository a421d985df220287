"""Divergence: exact for small vocabularies, a lower bound for large ones, the same from disk as from memory."""

import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lowbit.evaluation.divergence as divergence
from lowbit.errors import DataError, NonFiniteError, OutputError
from lowbit.evaluation.divergence import KEPT, Reference, record_type
from lowbit.evaluation.perplexity import log_total, score, windows

TEXT = "Sphinx of black quartz, judge my vow. How vexingly quick daft zebras jump! " * 5


def record(model, cut, limit=None):
    reference = Reference(limit)
    score(model, "t", cut, observers=[reference.recorder("t", cut)])
    return reference


def compare(reference, model, cut):
    meter = reference.divergence("t", cut)
    score(model, "t", cut, observers=[meter])
    return meter


def both(log_softmax, original, changed, cut):
    """Log-probabilities of both models at every scored place, (places, vocabulary) each, in float64."""
    return [torch.cat([log_softmax(model, w.ids)[w.first - 1 : -1] for w in cut]) for model in (original, changed)]


@pytest.mark.parametrize("vocabulary", [2, 40, 255, 256])
@pytest.mark.parametrize("stride", [None, 7])
def test_up_to_256_tokens_it_is_the_divergence(table_model, log_softmax, vocabulary, stride):
    original, changed = table_model(vocabulary), table_model(vocabulary, noise=0.2)
    cut = windows(original.encode(TEXT), 32, stride, 200)
    found = compare(record(original, cut), changed, cut)
    p, q = both(log_softmax, original, changed, cut)
    assert found.kl == pytest.approx((p.exp() * (p - q)).sum(1).mean().item(), rel=1e-5, abs=5e-8)
    assert found.agreement == (p.argmax(1) == q.argmax(1)).double().mean().item()
    assert 0 < found.agreement < 1 or vocabulary == 2


@pytest.mark.parametrize("vocabulary", [257, 1000, 5000])
def test_beyond_it_is_the_divergence_with_the_rest_in_one_bucket(table_model, log_softmax, vocabulary):
    original, changed = table_model(vocabulary, scale=0.7), table_model(vocabulary, scale=0.7, noise=0.3)
    cut = windows(original.encode(TEXT), 64, None, 128)
    found = compare(record(original, cut), changed, cut)

    p, q = both(log_softmax, original, changed, cut)
    order = p.argsort(1, descending=True)
    p, q = p.gather(1, order), q.gather(1, order)
    p, q = (torch.cat((x[:, :KEPT], x[:, KEPT:].logsumexp(1, keepdim=True)), 1) for x in (p, q))
    assert found.kl == pytest.approx((p.exp() * (p - q)).sum(1).mean().item(), rel=1e-5, abs=5e-8)


@given(st.integers(257, 400), st.integers(0, 10**6), st.floats(0.05, 3.0))
def test_it_is_never_more_than_the_divergence(vocabulary, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    p, q = (spread * torch.randn(3, vocabulary, generator=generator) for _ in range(2))
    cut = windows(torch.arange(4), 4)
    reference = Reference()
    reference.recorder("t", cut)(p.numpy(), log_total(p.numpy()))
    meter = reference.divergence("t", cut)
    meter(q.numpy(), log_total(q.numpy()))
    a, b = (torch.log_softmax(x.double(), 1) for x in (p, q))
    true = (a.exp() * (a - b)).sum(1).mean().item()
    assert -1e-7 <= meter.kl <= true + 1e-6
    assert meter.kl < true or vocabulary < 300  # with a few tokens in the bucket, these differ inside it


@pytest.mark.parametrize("vocabulary", [30, 256, 900])
def test_the_original_itself_gets_exactly_nothing(table_model, vocabulary):
    model = table_model(vocabulary)
    cut = windows(model.encode(TEXT), 32)
    found = compare(record(model, cut), model, cut)
    assert found.kl == 0.0 and found.agreement == 1.0


def test_disk_holds_what_memory_holds(table_model):
    original, changed = table_model(700), table_model(700, noise=0.1)
    cut = windows(original.encode(TEXT), 32)
    memory, disk = record(original, cut), record(original, cut, limit=0)
    places = sum(window.scored for window in cut)
    assert (memory.memory_nbytes, memory.disk_nbytes) == (places * 2056, 0)
    assert (disk.memory_nbytes, disk.disk_nbytes) == (0, places * 2056)
    a, b = compare(memory, changed, cut), compare(disk, changed, cut)
    assert a.kl == b.kl > 0 and a.agreement == b.agreement < 1
    assert compare(disk, original, cut).kl == 0.0  # a file is read again from its start


def test_a_file_may_be_read_while_it_is_written():
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0)).numpy()
    cut = windows(torch.arange(3), 3)
    reference = Reference(memory_limit=0)
    recorder, total = reference.recorder("t", cut), log_total(logits)
    recorder(logits[:1], total[:1])
    reference.divergence("t", cut)(logits[:1], total[:1])
    reference._kept["t"].read(0, 0)
    recorder(logits[1:], total[1:])
    meter = reference.divergence("t", cut)
    meter(logits, total)
    assert meter.kl == 0.0


def test_a_text_goes_to_disk_once_memory_is_full(table_model):
    model = table_model(300)
    cuts = {name: windows(model.encode(TEXT), 16, None, n) for name, n in [("a", 64), ("b", 64), ("c", 16)]}
    with Reference(memory_limit=100 * 2056) as reference:
        for name, cut in cuts.items():
            score(model, name, cut, observers=[reference.recorder(name, cut)])
        assert reference.texts == ("a", "b", "c")
        assert reference.memory_nbytes == (60 + 15) * 2056  # a and c; b no longer fits
        assert reference.disk_nbytes == 60 * 2056
        file = reference._kept["b"].file
        assert not file.closed
    assert file.closed and reference.texts == () and reference.disk_nbytes == 0


def test_a_reference_that_is_dropped_closes_its_file(table_model):
    model = table_model(300)
    reference = record(model, windows(model.encode(TEXT), 16), limit=0)
    file = reference._kept["t"].file
    del reference
    assert file.closed


def test_a_place_takes_2056_bytes_at_most():
    assert record_type(2**18).itemsize == record_type(256).itemsize == 2056
    assert record_type(3).itemsize == 32


def test_of_equally_likely_tokens_the_lowest_counts(table_model):
    flat, late = table_model(300, scale=0.0), table_model(300, scale=0.0)
    late.table[:, 299] = 1e-3
    cut = windows(flat.encode(TEXT), 16)
    assert compare(record(flat, cut), flat, cut).agreement == 1.0
    assert compare(record(flat, cut), late, cut).agreement == 0.0


def test_a_model_that_rules_out_almost_everything_is_still_finite(table_model, log_softmax):
    """The bucket's probability is far below what a float32 exponential holds."""
    original, changed = table_model(600, scale=0.1), table_model(600, scale=500.0, seed=5)
    cut = windows(original.encode(TEXT), 32)
    found = compare(record(original, cut), changed, cut)
    p, q = both(log_softmax, original, changed, cut)
    true = (p.exp() * (p - q)).sum(1).mean().item()
    assert 100 < found.kl < true


def test_masked_tokens_cost_nothing_if_the_original_masks_them_too(table_model):
    original, changed = table_model(400), table_model(400, noise=0.1)
    ids = original.encode(TEXT)
    unused = [token for token in range(400) if token not in set(ids.tolist())]
    cut = windows(ids, 32)
    for model in (original, changed):
        model.table[:, unused] = -math.inf
    found = compare(record(original, cut), changed, cut)
    assert math.isfinite(found.kl) and found.kl > 0


def test_masking_what_the_original_allows_is_an_error(table_model):
    original, changed = table_model(40), table_model(40)
    ids = original.encode(TEXT)
    unused = next(token for token in range(40) if token not in set(ids.tolist()))
    changed.table[ids[3] % 40, unused] = -math.inf
    cut = windows(ids, 32)
    reference = record(original, cut)
    place = next(place for place, token in enumerate(ids.tolist()) if token % 40 == ids[3] % 40)
    with pytest.raises(NonFiniteError, match=f"text 't', scored token {place}: the divergence is inf; a token that the original allows"):
        compare(reference, changed, cut)


@pytest.mark.parametrize("arguments", [(16, None, 64), (64, None, 64), (32, 8, 64), (32, None, 100)])
def test_other_windows_are_refused(table_model, arguments):
    model = table_model()
    ids = model.encode(TEXT)
    reference = record(model, windows(ids, 32, None, 64))
    with pytest.raises(DataError, match="the reference holds other tokens or windows of text 't'"):
        reference.divergence("t", windows(ids, *arguments))
    ids[40] += 1
    with pytest.raises(DataError, match="evaluate the original with the same tokenizer, window, stride and limit"):
        reference.divergence("t", windows(ids, 32, None, 64))


def test_other_texts_and_vocabularies_are_refused(table_model):
    model = table_model(60)
    cut = windows(model.encode(TEXT), 32)
    reference = record(model, cut)
    with pytest.raises(DataError, match="the reference holds no text 'u', only t; evaluate the original on it"):
        reference.divergence("u", cut)
    with pytest.raises(DataError, match="the reference holds text 't' already"):
        reference.recorder("t", cut)
    with pytest.raises(DataError, match="the original has 60 tokens, this model 61; compare models of one vocabulary"):
        compare(reference, table_model(61), cut)
    reference.close()
    with pytest.raises(DataError, match="the reference holds no text 't', only none"):
        reference.divergence("t", cut)


def test_no_room(table_model, monkeypatch):
    model = table_model()
    cut = windows(model.encode(TEXT), 32)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(OutputError, match=r"the reference of text 't' needs 0.0 GB in .*; take fewer tokens, or set TMPDIR"):
        record(model, cut, limit=0)
    monkeypatch.setattr(divergence, "SIZE_LIMIT", 10 * 2056)
    with pytest.raises(DataError, match="; take at most 10 tokens of it"):
        record(model, cut)


def test_a_disk_that_fails(table_model, monkeypatch):
    class Full:
        closed = False

        def seek(self, at):
            pass

        def write(self, data):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr(divergence.tempfile, "TemporaryFile", lambda prefix: Full())
    model = table_model()
    with pytest.raises(OutputError, match=r"the reference cannot be written to .*: No space left on device"):
        record(model, windows(model.encode(TEXT), 32), limit=0)


def test_a_record_is_what_it_says(table_model):
    logits = np.log(np.array([[0.1, 0.6, 0.3]], dtype=np.float32))
    cut = windows(torch.arange(2), 2)
    reference = Reference()
    reference.recorder("t", cut)(logits, log_total(logits))
    (kept,) = reference._kept["t"].read(0, 1)
    assert kept["ids"].tolist() == [1, 2, 0] and kept["top"] == 1 and kept["log_tail"] == -np.inf
    np.testing.assert_allclose(np.exp(kept["log_p"]), [0.6, 0.3, 0.1], rtol=1e-6)
