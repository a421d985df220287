"""How far a model has moved from the original: Kullback-Leibler divergence and top-1 agreement."""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowbit.errors import DataError, NonFiniteError, OutputError
from lowbit.evaluation.perplexity import Logits, Logs, Window, log_total
from lowbit.threads import one_thread

#: how many of the likeliest tokens of each place a reference keeps
KEPT = 256
#: bytes of a reference that stay in memory; texts beyond go to a temporary file
MEMORY_LIMIT = 2**28
#: bytes that a reference may take in memory and on disk together: 4 million places
SIZE_LIMIT = 2**33

Records = NDArray[np.void]


def record_type(vocabulary: int) -> np.dtype[np.void]:
    """What is kept of one place: 8 bytes for each of up to 256 tokens, and 8 more.

    ``log_p`` and ``ids`` of the likeliest tokens, ``log_tail`` the log of the probability of all others
    together (-inf if there are none), ``top`` the likeliest token, of equally likely ones the lowest id.
    """
    k = min(KEPT, vocabulary)
    return np.dtype([("log_p", "<f4", (k,)), ("ids", "<i4", (k,)), ("log_tail", "<f4"), ("top", "<i4")])


def fingerprint(cut: Sequence[Window]) -> str:
    """A digest of which tokens are scored, and after which."""
    digest = hashlib.sha256()
    for window in cut:
        digest.update(np.array([window.first, len(window.ids)], dtype="<i8").tobytes())
        digest.update(window.ids.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


@dataclass
class _Kept:
    """The records of one text, in memory or in a file."""

    fingerprint: str
    places: int
    vocabulary: int = 0
    rows: Records | None = None
    file: IO[bytes] | None = None

    def write(self, at: int, records: Records) -> None:
        if self.rows is not None:
            self.rows[at : at + len(records)] = records
            return
        assert self.file is not None
        try:
            self.file.seek(at * records.itemsize)
            self.file.write(records.tobytes())
        except OSError as error:
            raise OutputError(f"the reference cannot be written to {tempfile.gettempdir()}: {error.strerror}") from error

    def read(self, at: int, count: int) -> Records:
        if self.rows is not None:
            return self.rows[at : at + count]
        assert self.file is not None
        kind = record_type(self.vocabulary)
        self.file.seek(at * kind.itemsize)
        return np.frombuffer(self.file.read(count * kind.itemsize), kind)


class Reference:
    """What the original model said at every scored place of every text: at most 2,056 bytes a place.

    The first ``memory_limit`` bytes stay in memory; a text that no longer fits goes whole into a temporary
    file, which is gone when the reference is closed or the process ends, however it ends. In all a reference
    takes at most ``SIZE_LIMIT`` bytes.

    Args:
        memory_limit: in bytes; by default ``MEMORY_LIMIT``.
    """

    def __init__(self, memory_limit: int | None = None) -> None:
        self.memory_limit = MEMORY_LIMIT if memory_limit is None else memory_limit
        self.memory_nbytes = 0
        self.disk_nbytes = 0
        self._kept: dict[str, _Kept] = {}

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def texts(self) -> tuple[str, ...]:
        """The names of the texts that it holds."""
        return tuple(self._kept)

    def close(self) -> None:
        """Forget everything and delete the temporary file."""
        for kept in self._kept.values():
            if kept.file is not None:
                kept.file.close()
        self._kept.clear()
        self.memory_nbytes = self.disk_nbytes = 0

    def recorder(self, text: str, cut: Sequence[Window]) -> Recorder:
        """An observer that keeps what it sees of a text.

        Raises:
            DataError: the text is here already.
        """
        if text in self._kept:
            raise DataError(f"the reference holds text {text!r} already; give each text once")
        self._kept[text] = _Kept(fingerprint(cut), sum(window.scored for window in cut))
        return Recorder(self, text)

    def divergence(self, text: str, cut: Sequence[Window]) -> Divergence:
        """An observer that compares what it sees of a text with what is kept of it.

        Raises:
            DataError: the text is not here, or it was cut into other tokens or windows.
        """
        kept = self._kept.get(text)
        if kept is None:
            raise DataError(f"the reference holds no text {text!r}, only {', '.join(self._kept) or 'none'}; evaluate the original on it")
        if kept.fingerprint != fingerprint(cut):
            raise DataError(
                f"the reference holds other tokens or windows of text {text!r}; evaluate the original with the same tokenizer, window, "
                "stride and limit"
            )
        return Divergence(text, kept)

    def reserve(self, text: str, vocabulary: int) -> _Kept:
        """Make room for the records of a text.

        Raises:
            DataError: more than ``SIZE_LIMIT`` in all.
            OutputError: the temporary folder has no room.
        """
        kept = self._kept[text]
        kept.vocabulary, kind = vocabulary, record_type(vocabulary)
        nbytes = kept.places * kind.itemsize
        left = SIZE_LIMIT - self.memory_nbytes - self.disk_nbytes
        if nbytes > left:
            raise DataError(
                f"the reference of text {text!r} takes {nbytes / 1e9:.1f} GB for {kept.places} tokens, of which {left / 1e9:.1f} GB are "
                f"allowed; take at most {left // kind.itemsize} tokens of it"
            )
        if self.memory_nbytes + nbytes <= self.memory_limit:
            kept.rows = np.empty(kept.places, kind)
            self.memory_nbytes += nbytes
            return kept
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if nbytes > free:
            raise OutputError(
                f"the reference of text {text!r} needs {nbytes / 1e9:.1f} GB in {folder}, which has {free / 1e9:.1f} GB free; "
                "take fewer tokens, or set TMPDIR to a folder with room"
            )
        try:
            kept.file = tempfile.TemporaryFile(prefix="lowbit-")  # noqa: SIM115  it lives as long as the reference
        except OSError as error:
            raise OutputError(f"the reference cannot be written to {folder}: {error.strerror}") from error
        weakref.finalize(self, kept.file.close)
        self.disk_nbytes += nbytes
        return kept


class Recorder:
    """Observer of the original model: keeps the likeliest tokens of each place."""

    def __init__(self, reference: Reference, text: str) -> None:
        self.reference = reference
        self.text = text
        self.seen = 0
        self._kept: _Kept | None = None

    def __call__(self, logits: Logits, total: Logs) -> None:
        """Keep some places: logits (places, vocabulary), total (places,)."""
        if self._kept is None:
            self._kept = self.reference.reserve(self.text, logits.shape[1])
        records = np.empty(len(logits), record_type(logits.shape[1]))
        with one_thread():  # some rows at a time: waking threads would take longer than the work
            ids = torch.from_numpy(logits).topk(records["ids"].shape[1]).indices.numpy()
        records["ids"] = ids
        records["log_p"] = np.take_along_axis(logits, ids, 1) - total[:, None]
        records["log_tail"] = _log_tail(logits, total, ids)
        records["top"] = logits.argmax(axis=1)
        self._kept.write(self.seen, records)
        self.seen += len(logits)


class Divergence:
    """Observer of a changed model: compares it with the original at each place.

    KL(original || changed) = sum over the kept tokens of p (log p - log q) + p_t (log p_t - log q_t)

    with p_t and q_t the probability of all other tokens together. With 256 tokens or fewer in the vocabulary
    nothing is left over and this is the divergence. With more it is a lower bound: putting tokens into one
    bucket can only bring two distributions closer (data-processing inequality). In nats a token; log p and
    log q are rounded to float32 alike, so the original itself gets exactly 0, and sums are in float64.
    """

    def __init__(self, text: str, kept: _Kept) -> None:
        self.text = text
        self.seen = 0
        self._kept = kept
        self._sum = 0.0
        self._same = 0

    def __call__(self, logits: Logits, total: Logs) -> None:
        """Compare some places: logits (places, vocabulary), total (places,).

        Raises:
            DataError: the vocabulary is not that of the original.
            NonFiniteError: the divergence is infinite: a token that the original allows has probability 0 here.
        """
        if logits.shape[1] != self._kept.vocabulary:
            raise DataError(
                f"the original has {self._kept.vocabulary} tokens, this model {logits.shape[1]}; compare models of one vocabulary"
            )
        records: Any = self._kept.read(self.seen, len(logits))
        ids = records["ids"].astype(np.int64)
        log_q = (np.take_along_axis(logits, ids, 1) - total[:, None]).astype(np.float32)
        each = _terms(records["log_p"], log_q).sum(axis=1)
        each += _terms(records["log_tail"], _log_tail(logits, total, ids).astype(np.float32))
        self._sum += float(each.sum())
        if not math.isfinite(self._sum):
            place = self.seen + int(np.flatnonzero(~np.isfinite(each))[0])
            raise NonFiniteError(
                f"text {self.text!r}, scored token {place}: the divergence is {self._sum}; a token that the original allows has logit -inf"
            )
        self._same += int((records["top"] == logits.argmax(axis=1)).sum())
        self.seen += len(logits)

    @property
    def kl(self) -> float:
        """Nats a token, averaged over the places seen."""
        return self._sum / self.seen

    @property
    def agreement(self) -> float:
        """The share of places, in [0, 1], where both hold the same token likeliest."""
        return self._same / self.seen


def _log_tail(logits: Logits, total: Logs, ids: NDArray[np.int64]) -> Logs:
    """The log of the probability of all tokens but ``ids``, (places,); -inf if there is none."""
    rest = logits.copy()
    np.put_along_axis(rest, ids, np.float32(-np.inf), 1)
    return log_total(rest) - total


def _terms(log_p: NDArray[np.float32], log_q: NDArray[np.float32]) -> Logs:
    """p (log p - log q) in float64; 0 where p is 0."""
    a, b = log_p.astype(np.float64), log_q.astype(np.float64)
    p = np.exp(a)
    with np.errstate(invalid="ignore"):
        return np.where(p > 0, p * (a - b), 0.0)
