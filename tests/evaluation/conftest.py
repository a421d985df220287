"""A language model small enough to be checked by hand: its logits are sums of table rows, so no thread count changes them."""

import weakref

import pytest
import torch
from torch import nn


class TableModel:
    """Logits at a place: the row of its token, half that of the token before, a quarter of that of the window's first."""

    name = "table"
    kind = "builtin"
    usual_text = "builtin"
    notes = ()

    def __init__(self, vocabulary=256, seed=0, scale=1.0, noise=0.0, context=512):
        generator = torch.Generator().manual_seed(seed)
        self.table = scale * torch.randn(min(vocabulary, 64), vocabulary, generator=generator)
        self.table += noise * torch.randn(self.table.shape, generator=torch.Generator().manual_seed(seed + 1))
        self.vocabulary, self.context = vocabulary, context
        self.module = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
        self.calls = []
        self.last = lambda: None

    def encode(self, text):
        return (torch.tensor(list(text.encode()), dtype=torch.int64) * 7919) % self.vocabulary

    def decode(self, ids):
        raise NotImplementedError

    def generate(self, prompt, max_new_tokens=64, temperature=0.0, seed=0, chat=False):
        raise NotImplementedError

    def save_assets(self, folder):
        raise NotImplementedError

    def logits(self, ids):
        assert ids.dtype == torch.int64 and ids.shape[0] == 1, "one sequence at a time"
        assert self.last() is None, "the logits of the window before are still held"
        assert not torch.is_grad_enabled()
        self.calls.append((ids[0].tolist(), any(m.training for m in self.module.modules())))
        each = self.table[ids[0] % len(self.table)]
        rows = each + each[0] / 4
        rows[1:] += each[:-1] / 2
        self.last = weakref.ref(rows)
        return rows[None]


@pytest.fixture(autouse=True)
def one_thread():
    """Tables this small are slower on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def table_model():
    return TableModel


@pytest.fixture
def log_softmax():
    """What a model says in float64, by torch: (window's ids) -> (length, vocabulary)."""

    def of(model, ids):
        with torch.no_grad():
            logits = model.logits(ids[None])[0].double()
        return torch.log_softmax(logits, -1)

    return of
