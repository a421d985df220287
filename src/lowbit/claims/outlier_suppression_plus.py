"""Outlier Suppression+: where outlying channels are asymmetric, shifting them matters, and shifting and scaling cost least."""

from __future__ import annotations

import torch

from lowbit.catalog import Source, register
from lowbit.claims.claim import Budget, Checks, Claim, Figures
from lowbit.claims.subjects import normal
from lowbit.philox import Key
from lowbit.progress import ProgressCallback
from lowbit.quantizers.spec import quantizer
from lowbit.transforms.loss import output_loss
from lowbit.transforms.outlier_suppression_plus import OutlierSuppressionPlus
from lowbit.transforms.smoothquant import SmoothQuant
from lowbit.transforms.transform import Edge, Scaled

WEI = Source(
    "Outlier Suppression+: Accurate quantization of large language models by equivalent and optimal shifting and scaling",
    "Wei, Zhang, Li, Zhang, Gong, Guo, Liu",
    2023,
    "arXiv:2304.09145",
    parts="8 and 6 bits with one scale for all inputs: shift, scale, and both, against SmoothQuant",
    departs="One layer with outlying channels made for it, not a model: the models at hand have no norm that can take a shift.",
    records=("outlier-suppression-plus",),
)
BITS = (8, 6)
OFFSET = 20.0


def measure(budget: Budget, progress: ProgressCallback | None = None) -> Figures:
    """Relative errors of a layer's outputs, with channels that lie far off zero, and with channels that are only wide."""
    W, rows = normal((192, 256), "os+ W").float(), []
    for kind in ("off zero", "wide"):
        X = normal((1024, 256), "os+ X").float()
        X[:, 5:8] = X[:, 5:8] + torch.tensor([OFFSET, -OFFSET, OFFSET]) if kind == "off zero" else X[:, 5:8] * OFFSET / 4
        stats = {"absmax": X.abs().amax(0), "extremes": torch.stack((X.amin(0), X.amax(0))), "rows": X[::4]}
        for bits in BITS:
            edge = Edge("layer", (W,), (quantizer(f"int{bits} row"),), quantizer(f"int{bits} tensor"), "norm", torch.arange(256))
            ones = torch.ones(256)
            low, high = stats["extremes"]
            ways = {
                "none": Scaled(ones), "smoothquant": SmoothQuant().fit(edge, stats, Key()), "shift": Scaled(ones, (low + high) / 2),
                "scale": OutlierSuppressionPlus(shift=False).fit(edge, stats, Key()),
                "shift and scale": OutlierSuppressionPlus().fit(edge, stats, Key()),
            }  # fmt: skip
            whole = float((X @ W.mT).double().square().sum())
            errors = {name: round(output_loss(edge, X, change or Scaled(ones)) / whole, 8) for name, change in ways.items()}
            rows.append({"outliers": kind, "bits": bits, **errors})
    return {"relative errors": rows}


def judge(figures: Figures) -> Checks:
    """See ``rule``."""
    checks = {}
    for r in figures["relative errors"]:
        named = f"{r['outliers']}, {r['bits']} bits"
        checks[f"{named}: shift and scale has the least error"] = r["shift and scale"] <= min(
            r[n] for n in ("none", "smoothquant", "shift", "scale")
        )
        if r["outliers"] == "off zero":
            checks[f"{named}: the shift matters"] = r["shift"] < 0.5 * r["none"]
        else:
            checks[f"{named}: the shift does not matter"] = abs(r["shift"] / r["none"] - 1) < 0.1
    return checks


outlier_suppression_plus = register("claim", "outlier-suppression-plus", WEI)(
    Claim(
        statement="Outliers are asymmetric and sit in few channels; shifting channels to their centre and shrinking those beyond a "
        "searched threshold keeps 8 and 6 bits with one scale for all inputs close to full precision, closer than SmoothQuant.",
        setting="A layer of 256 inputs and 192 outputs with normal weights and 1,024 rows of normal inputs, of which 3 channels are moved "
        "by 20, or are 5 times as wide. int8 and int6, a scale for each row of the weight, one for all inputs. The threshold is searched "
        "on every fourth row.",
        rule="Shift and scale has the least error of none, smoothquant (0.5), shift alone, scale alone. Shift alone halves the error at "
        "least where channels are moved, and changes it by less than a tenth where they are only wide.",
        least=0.1,
        minutes=0.1,
        measure=measure,
        judge=judge,
    )
)
