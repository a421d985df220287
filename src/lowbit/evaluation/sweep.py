"""Many formats and methods on one model in one run: ``lowbit.compare(model, ["nvfp4", "int4 g64"])``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from lowbit.data.text import Text, load_text
from lowbit.errors import DataError
from lowbit.evaluation.comparison import Comparison, Row
from lowbit.evaluation.divergence import Reference
from lowbit.evaluation.measure import evaluate, peak_memory
from lowbit.models.model import LanguageModel
from lowbit.nn.packed import PackedWeight, keep_dense
from lowbit.nn.replace import IGNORE, ONLY, packed_module, put
from lowbit.progress import Progress, ProgressCallback
from lowbit.quantizers.augmented import Augmented
from lowbit.quantizers.quantizer import Quantizer, bits_per_element
from lowbit.recipes.calibrate import calibrate, merged
from lowbit.recipes.calibration_data import calibration_source
from lowbit.recipes.plan import Plan, check_finite, plan
from lowbit.recipes.transforming import Edits
from lowbit.recipes.walk import Source
from lowbit.solvers.solver import Solver
from lowbit.transforms.transform import Transform


def compare(
    model: LanguageModel,
    weights: Sequence[str | Quantizer],
    solvers: Sequence[str | Solver] = ("rtn",),
    texts: Sequence[Text | str] = (),
    *,
    transforms: Sequence[Sequence[str | Transform]] = ((),),
    activations: str | Quantizer | None = None,
    only: Sequence[str] = ONLY,
    ignore: Sequence[str] = IGNORE,
    window: int = 512,
    stride: int | None = None,
    max_tokens: int | None = None,
    calibration: Sequence[Text | str] = (),
    sequences: int = 32,
    length: int = 512,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> Comparison:
    """Quantize the model with every combination, measure each against the original, and leave the model as it was.

    Every combination is planned before the first is run, so what does not fit is refused at once. What is measured are
    the packed layers that ``quantize`` would leave in the model.

    Args:
        weights: quantizers or spec strings.
        solvers: solvers or their spec strings.
        transforms: chains of transforms or their spec strings; the empty one leaves the basis as it is.
        texts: what is measured on, texts or their names; by default the model's usual text. The first one's figures are
            a row's main figures.
        window, stride, max_tokens: see ``evaluate``; max_tokens is for each text.
        calibration, sequences, length: texts for the solvers that need data, how many windows of them, of how many tokens.
        on_row: called with each finished row.

    Raises:
        LowbitError: a combination does not fit the model, its weights are not finite, or a text is too short.
    """
    if isinstance(weights, str) or not weights or isinstance(solvers, str) or not solvers:
        raise DataError(f"weights are {weights!r} and solvers {solvers!r}; give a list of one or more of each")
    plans = [
        plan(model.module, each, solver, transforms=chain, activations=activations, only=only, ignore=ignore)
        for each in weights
        for chain in transforms
        for solver in solvers
    ]
    for made in plans:
        made.recipe()  # what has no words is refused before any work
    check_finite(plans[0].layers)
    read = [load_text(each) if isinstance(each, str) else each for each in texts] or [load_text(model.usual_text)]
    baseline = evaluate(model, read, window=window, stride=stride, max_tokens=max_tokens, keep_reference=True, progress=progress)
    assert baseline.reference is not None
    first = plans[0]
    dtype = str(first.layers[0].target.matrix.dtype).removeprefix("torch.")
    start = Row.of(baseline, dtype, "", bits_per_weight=first.original_bits, nbytes=first.original_nbytes, seconds=0.0)
    rows = []
    warnings: dict[str, None] = {}
    source = calibration_source(model, plans, calibration, sequences, length)
    with baseline.reference as reference:
        for i, made in enumerate(plans):
            if progress is not None:
                progress(Progress("compare", i, len(plans), _label(made)))
            rows.append(_row(model, made, read, reference, window, stride, max_tokens, seed, progress, source, warnings))
            if on_row is not None:
                on_row(rows[-1])
    if progress is not None:
        progress(Progress("compare", len(plans), len(plans)))
    found = Comparison.of(model, start, rows, baseline)
    inputs = None if first.activations is None else str(first.recipe()["activations"])
    return replace(found, notes=(*found.notes, *merged(warnings)), activations=inputs, peak_memory=peak_memory())


def _label(made: Plan) -> str:
    return f"{made.recipe()['weights']} {made.method}"


def _row(
    model: LanguageModel, made: Plan, texts: Sequence[Text], reference: Reference, window: int, stride: int | None,
    max_tokens: int | None, seed: int, progress: ProgressCallback | None, source: Source, warnings: dict[str, None],
) -> Row:  # fmt: skip
    recipe = made.recipe()
    with originals_kept(model, made) as edits:
        started = time.perf_counter()
        packed = []
        for done in calibrate(model.module, made, source, seed=seed, progress=progress, edits=edits):
            packed += [(s.layer, PackedWeight.of(s.weight), done.inputs.get(s.layer.name, made.activations)) for s in done.solved]
            warnings.update(dict.fromkeys(done.warnings))
        seconds = time.perf_counter() - started
        for layer, weight, inputs in packed:
            put(model.module, layer.name, packed_module(layer.target.module, weight, inputs))
        warnings.update(_augmented(made, [(layer.shape, inputs) for layer, _, inputs in packed]))
        keep_dense(model.module)
        found = evaluate(model, texts, window=window, stride=stride, max_tokens=max_tokens, reference=reference, progress=progress)
    held = {layer.name for layer in made.held}
    nbytes = sum(weight.nbytes for layer, weight, _ in packed if layer.name in held)
    return Row.of(
        found, str(recipe["weights"]), made.method,
        bits_per_weight=8 * nbytes / max(1, made.elements), nbytes=nbytes + made.rest_nbytes, seconds=seconds,
    )  # fmt: skip


def _augmented(made: Plan, layers: Sequence[tuple[tuple[int, ...], Quantizer | None]]) -> dict[str, None]:
    """What residual channels of the inputs cost, in one line; nothing where there are none."""
    wide = [shape[0] * (shape[1] + (q.channels if isinstance(q, Augmented) else 0)) for shape, q in layers]
    times = sum(wide) / max(1, sum(shape[0] * shape[1] for shape, _ in layers))
    if times == 1:
        return {}
    given = bits_per_element(made.activations, (512, layers[0][0][1])) if made.activations is not None else 0.0
    read = f"a product of one format reads its weights {times:.3f} times as wide"
    return {f"{made.method}: inputs have {given * times:.3f} bits a number, not {given:.3f}, and {read}; they are stored once": None}


@contextmanager
def originals_kept(model: LanguageModel, made: Plan) -> Iterator[Edits]:
    """The model is as it was afterwards, its planned layers with their own parameters, whatever happens inside."""
    weights = [layer.target.module.weight for layer in made.layers]
    edits = Edits(model.module)
    try:
        yield edits
    finally:
        for layer, weight in zip(made.layers, weights, strict=True):
            put(model.module, layer.name, layer.target.module)
            layer.target.module.weight = weight
        edits.undo()
