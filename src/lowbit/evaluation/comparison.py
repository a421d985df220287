"""Many ways to quantize one model, side by side: the figures, their JSON and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from lowbit.evaluation.measure import Evaluation, finite
from lowbit.models.model import LanguageModel


@dataclass(frozen=True)
class Row:
    """One way to hold the model's weights, and what it cost.

    Args:
        weights: the quantizer's spec string, or the dtype of the original.
        solver: what chose the codes; empty for the original.
        perplexity: text -> perplexity.
        kl: text -> KL(original || this) in nats a token; empty if it was not measured.
        agreement: text -> share in [0, 1] of places with the original's likeliest token; empty if it was not measured.
        bits_per_weight: of the quantized weights, scales counted.
        nbytes: the whole model's weights in bytes.
        seconds: wall-clock time to quantize.
    """

    weights: str
    solver: str
    perplexity: Mapping[str, float]
    kl: Mapping[str, float] = field(default_factory=dict)
    agreement: Mapping[str, float] = field(default_factory=dict)
    bits_per_weight: float = 0.0
    nbytes: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, evaluation: Evaluation, weights: str, solver: str, *, bits_per_weight: float, nbytes: int, seconds: float) -> Row:
        """The row of an evaluation; ``seconds`` is the time that quantizing took, not evaluating."""
        return cls(weights, solver, evaluation.perplexity, evaluation.kl, evaluation.agreement, bits_per_weight, nbytes, seconds)

    @property
    def label(self) -> str:
        """``int4 g64 · gptq``; the weights alone if there is no solver."""
        return " · ".join(filter(None, (self.weights, self.solver)))

    def to_json(self, texts: Sequence[str]) -> dict[str, Any]:
        """The figures of the first text on top, those of every text under ``texts``; None for what JSON cannot say."""
        each = {
            text: {
                "perplexity": finite(self.perplexity.get(text)),
                "kl": finite(self.kl.get(text)),
                "agreement": finite(self.agreement.get(text)),
            }
            for text in texts
        }
        return {
            "weights": self.weights,
            "solver": self.solver,
            **each[texts[0]],
            "bits_per_weight": self.bits_per_weight,
            "nbytes": self.nbytes,
            "seconds": self.seconds,
            "texts": each,
        }


@dataclass(frozen=True)
class Comparison:
    """The original and the rows measured against it.

    Args:
        model: the model's name.
        baseline: the original.
        rows: in the order in which they are shown.
        texts: names of the texts, one or more; the first one leads.
        window, stride: of the evaluation, in tokens.
        tokens: text -> how many tokens were scored.
        notes: what to know about the model's figures.
        peak_memory: the most bytes that the process has held until the end; 0 where that is not known.
        activations: spec string of the layers' inputs in every row, or None where they are not quantized.
    """

    model: str
    baseline: Row
    rows: tuple[Row, ...]
    texts: tuple[str, ...]
    window: int
    stride: int
    tokens: Mapping[str, int]
    notes: tuple[str, ...] = ()
    peak_memory: int = 0
    activations: str | None = None

    @classmethod
    def of(cls, model: LanguageModel, baseline: Row, rows: Sequence[Row], evaluation: Evaluation) -> Comparison:
        """The comparison of rows with the original, whose ``evaluation`` says on what they were measured."""
        texts = tuple(evaluation.tokens)
        return cls(model.name, baseline, tuple(rows), texts, evaluation.window, evaluation.stride, evaluation.tokens, tuple(model.notes))

    def to_json(self) -> dict[str, Any]:
        """``{"baseline": {...}, "rows": [{"weights", "solver", "perplexity", "kl", "bits_per_weight", "nbytes", "seconds", ...}]}``.

        ``perplexity`` and ``kl`` are the first text's; ``texts`` in a row holds every text's. A figure that was not
        measured, or is infinite, is None.
        """
        return {
            "model": self.model,
            "notes": list(self.notes),
            "texts": list(self.texts),
            "activations": self.activations,
            "window": self.window,
            "stride": self.stride,
            "tokens": dict(self.tokens),
            "peak_memory": self.peak_memory,
            "baseline": self.baseline.to_json(self.texts),
            "rows": [row.to_json(self.texts) for row in self.rows],
        }

    @property
    def caption(self) -> str:
        """``wikitext2: 40,880 tokens, window 512, stride 512, peak memory 1,834 MB``; says so where layers' inputs are quantized too."""
        counted = ", ".join(f"{short(text)}: {self.tokens[text]:,} tokens" for text in self.texts)
        peak = f", peak memory {self.peak_memory / 1e6:,.0f} MB" if self.peak_memory else ""
        inputs = "" if self.activations is None else f"; inputs of the quantized layers in {self.activations}"
        return f"{counted}, window {self.window}, stride {self.stride}{peak}{inputs}"

    def columns(self) -> list[str]:
        """The headings of ``cells``; with several texts the figures of each carry its name."""
        figures = ("perplexity", "KL", "top-1")
        named = [name if len(self.texts) == 1 else f"{name} {short(text)}" for text in self.texts for name in figures]
        return ["weights", "solver", "bits/weight", "MB", *named, "seconds"]

    def cells(self, row: Row) -> list[str]:
        """The row as text: MB are 10^6 bytes, ``x`` is the ratio to the original's perplexity, KL is in nats a token."""
        figures = []
        for text in self.texts:
            figures.append(_perplexity(row.perplexity.get(text), None if row is self.baseline else self.baseline.perplexity.get(text)))
            figures.append(_kl(row.kl.get(text)))
            figures.append(f"{row.agreement[text]:.2%}" if text in row.agreement else "-")
        megabytes = f"{row.nbytes / 1e6:,.{2 if row.nbytes < 1e8 else 1}f}"
        return [row.weights, row.solver or "-", f"{row.bits_per_weight:.3f}", megabytes, *figures, f"{row.seconds:,.1f}"]


def short(text: str) -> str:
    """A text's name without the folders of a path."""
    return Path(text).name or text


def table(comparison: Comparison) -> Table:
    """The comparison for the terminal: the original first, then the rows as given. One text fits 100 columns."""
    shown = Table(
        title=escape(comparison.model),
        caption=escape(comparison.caption),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE,
        pad_edge=False,
    )
    for heading in comparison.columns():
        if heading in ("weights", "solver"):
            shown.add_column(escape(heading), overflow="fold")
        else:
            shown.add_column(escape(heading), justify="right", no_wrap=len(comparison.texts) == 1)
    shown.add_row(*map(escape, comparison.cells(comparison.baseline)), end_section=True)
    for row in comparison.rows:
        shown.add_row(*map(escape, comparison.cells(row)))
    return shown


def _perplexity(value: float | None, original: float | None) -> str:
    if value is None:
        return "-"
    shown = f"{value:.3f}" if value < 1e4 else f"{value:.2e}"
    if original is None:
        return shown
    ratio = value / original
    return f"{shown} x{ratio:.3f}" if ratio < 100 else f"{shown} x{ratio:.3g}"


def _kl(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value >= 1e-3 or value == 0 else f"{value:.1e}"
