"""KV-AdaQuant: at one size of the cache, keys need the bits more than values do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import SMOLLM2, Subject, pairs, subjects
from lowbit.evaluation.measure import evaluate
from lowbit.kv_cache.kivi import by_token
from lowbit.kv_cache.kv_adaquant import KVAdaQuant
from lowbit.kv_cache.kv_cache import KVCache, Store, whole
from lowbit.progress import ProgressCallback
from lowbit.quantizers.quantizer import Quantizer

HARIRI = Source(
    "More for Keys, Less for Values: Adaptive KV Cache Quantization",
    "Hariri, Luo, Chen, Zhong, Zhang, Wang, Hu, Han, Chaudhary",
    2025,
    "arXiv:2502.15075",
    parts="the tables of K4V2 against K2V4, the norms of keys and values",
    departs="Perplexity on texts in the place of accuracy on tasks; small models, 1024 tokens.",
    records=("kv-adaquant",),
)
WIDTHS = ((8, 8), (4, 4), (4, 2), (3, 3), (2, 4))
RECENT, WINDOW = 64, 1024
#: scored of each text; the built-in model's are bytes
TOKENS = {SMOLLM2: 2048}
BYTES = 16384


@dataclass(frozen=True)
class OneLayer(KVCache):
    """Only the keys, or only the values, of one layer are quantized."""

    layer: int
    keys: bool
    recent: int = 0
    group: int = 32

    def quantizers(self, layer: int) -> tuple[Quantizer | None, Quantizer | None]:
        q = by_token(2, self.group) if layer == self.layer else None
        return (q, None) if self.keys else (None, q)


@dataclass(frozen=True)
class Watched(KVCache):
    """Keeps everything as it is, and the stores, so that they can be looked at."""

    stores: list[Store] = field(default_factory=list)
    recent: int = 0
    group: int = 1

    def quantizers(self, layer: int) -> tuple[None, None]:
        return None, None

    def store(self, layer: int) -> Store:
        self.stores.append(whole())
        return self.stores[-1]


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Perplexities of five widths in two layouts; for SmolLM2-135M also layer by layer."""
    figures: Figures = {"caches": [], "layers": []}
    for subject in subjects(budget, 8.0, figures):
        window = min(WINDOW, subject.model.context)
        options: dict[str, Any] = {"window": window, "max_tokens": TOKENS.get(subject.name, BYTES), "progress": progress}
        subject.model.kv = None
        plain = evaluate(subject.model, subject.texts, **options).perplexity
        for layout in ("token", "channel"):
            for keys, values in WIDTHS:
                subject.model.kv = KVAdaQuant(keys, values, layout, recent=RECENT)  # type: ignore[arg-type]
                found = evaluate(subject.model, subject.texts, **options).perplexity
                figures["caches"] += [
                    {
                        "model": subject.name, "text": text, "layout": layout, "keys": keys, "values": values,
                        "perplexity": round(value, 4), "extra": round(math.log(value / plain[text]), 5),
                    }
                    for text, value in found.items()
                ]  # fmt: skip
        if subject.name == SMOLLM2:
            figures["layers"] += _layers(subject, window)
        subject.model.kv = None
    return figures


def _layers(subject: Subject, window: int) -> list[dict[str, Any]]:
    """Norms of keys and values of each layer, and what 2 bits in one of them cost on one window."""
    watched = Watched()
    subject.model.kv = watched
    subject.model.logits(subject.model.encode(subject.texts[0].content)[None, :window])
    norms = [(store.keys.rest, store.values.rest) for store in watched.stores]
    rows = []
    for layer, (k, v) in enumerate(norms):
        assert k is not None and v is not None
        losses = []
        for keys in (True, False):
            subject.model.kv = OneLayer(layer, keys)
            found = evaluate(subject.model, subject.texts[:1], window=window, max_tokens=window).perplexity
            losses.append(math.log(next(iter(found.values()))))
        rows.append(
            {"layer": layer, "norm ratio": round(float(k.norm() / v.norm()), 3), "K2 loss - V2 loss": round(losses[0] - losses[1], 5)}
        )
    return rows


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    rows, checks = figures["caches"], {}
    for model, text in pairs(rows):
        for layout in ("token", "channel"):
            mine = [r for r in rows if (r["model"], r["text"], r["layout"]) == (model, text, layout)]
            extra = {(r["keys"], r["values"]): r["extra"] for r in mine}
            checks[f"{model}, {text}, keys by {layout}: 4 and 2 bits lose less than half of what 2 and 4 lose"] = (
                extra[4, 2] < 0.5 * extra[2, 4]
            )
    layers = figures["layers"]
    if len(layers) > 2:
        ratio, gap = (torch.tensor([r[k] for r in layers], dtype=torch.float64) for k in ("norm ratio", "K2 loss - V2 loss"))
        correlation = float(torch.corrcoef(torch.stack((ratio.log(), gap)))[0, 1])
        checks["the norm ratios of layers correlate above 0.5 with how much more 2 bits cost in the keys"] = correlation > 0.5
    return checks


kv_adaquant = register("claim", "kv-adaquant", HARIRI)(
    Claim(
        statement="Keys in 4 bits and values in 2 keep far more than the other way round, at the same size; their norms say so.",
        setting="Integers with zero points in groups of 32, the last 64 tokens as they are, windows of 1024 tokens (or the model's "
        "context) that enter the cache 64 at a time; keys share scales over channels of a token, or over tokens of a channel as KIVI's.",
        rule="For every model, text and layout K4V2 loses less than half of what K2V4 loses; over the layers of SmolLM2-135M the logarithm "
        "of ||K|| / ||V|| correlates above 0.5 with the loss of 2-bit keys minus that of 2-bit values.",
        least=1.0,
        minutes=10.0,
        measure=measure,
        judge=judge,
    )
)
