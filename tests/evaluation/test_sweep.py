"""compare measures what quantize would leave in the model, refuses at once what does not fit, and leaves the model as it was."""

import pytest
import torch
from torch import nn

import lowbit
from lowbit.data.text import Text
from lowbit.errors import DataError, NonFiniteError, ShapeError, SpecError, UnknownName
from lowbit.evaluation.sweep import originals_kept
from lowbit.nn.packed import keep_dense
from lowbit.recipes.plan import plan
from lowbit.solvers.rtn import RTN

WORDS = Text("words", "def f(x):\n    return x + 1\n" * 12)
OPTIONS = {"texts": [WORDS], "window": 64, "max_tokens": 200}


@pytest.fixture
def model(llama_folder):
    return lowbit.open_model(str(llama_folder(tied=True)))


def snapshot(model):
    modules = dict(model.module.named_modules())
    parameters = dict(model.module.named_parameters(remove_duplicate=False))
    return modules, parameters, {n: p.detach().clone() for n, p in parameters.items()}


def assert_as_before(model, before):
    modules, parameters, numbers = before
    assert all(a is modules[n] for n, a in model.module.named_modules())
    now = dict(model.module.named_parameters(remove_duplicate=False))
    assert now.keys() == parameters.keys()
    assert all(now[n] is p and torch.equal(p, numbers[n]) for n, p in parameters.items())
    assert model.module.lm_head.weight is model.module.model.embed_tokens.weight
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.module.modules())


CASES = {
    "weights": {"weights": ["nvfp4"]},
    "activations": {"weights": ["int8"], "activations": "int8"},
    "the table of a tied head": {"weights": ["int4 g32"], "only": ["Embedding"]},
    "some layers": {"weights": ["int4 g32 asym"], "only": ["*.mlp.*"]},
    "noise": {"weights": ["int4 g32 round=stochastic"], "seed": 4},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_a_row_is_what_quantize_and_evaluate_find(llama_folder, options, dtype):
    folder = str(llama_folder(tied=True))
    model = lowbit.open_model(folder, dtype=dtype)
    before = snapshot(model)
    found = lowbit.compare(model, **options, **OPTIONS)
    assert_as_before(model, before)
    original = lowbit.evaluate(lowbit.open_model(folder, dtype=dtype), [WORDS], window=64, max_tokens=200, keep_reference=True)
    assert found.baseline.perplexity == original.perplexity
    other = lowbit.open_model(folder, dtype=dtype)
    arguments = {**options, "weights": options["weights"][0]}
    made = plan(other.module, **{k: v for k, v in arguments.items() if k != "seed"})
    lowbit.quantize(other, **arguments)
    keep_dense(other.module)  # as a comparison does
    expected = lowbit.evaluate(other, [WORDS], window=64, max_tokens=200, reference=original.reference)
    (row,) = found.rows
    assert (row.perplexity, row.kl, row.agreement) == (expected.perplexity, expected.kl, expected.agreement)
    assert (row.nbytes, row.bits_per_weight) == (made.nbytes, made.bits)
    assert row.kl["words"] > 0
    assert (found.baseline.weights, found.baseline.solver) == (dtype, "")
    assert (found.baseline.nbytes, found.baseline.bits_per_weight) == (made.original_nbytes, made.original_bits)


def test_every_combination_has_a_row_in_order(model):
    told = []
    found = lowbit.compare(model, ["int8", "int4 g32"], ["rtn", RTN()], **OPTIONS, on_row=told.append)
    assert [(r.weights, r.solver) for r in found.rows] == [("int8", "rtn"), ("int8", "rtn"), ("int4 g32", "rtn"), ("int4 g32", "rtn")]
    assert found.rows == tuple(told)
    assert found.rows[0].perplexity == found.rows[1].perplexity
    assert found.rows[0].kl["words"] < found.rows[2].kl["words"]
    assert (found.texts, found.window, found.stride, found.model) == (("words",), 64, 64, model.name)


def test_a_calibrated_solver_beside_a_plain_one(model):
    found = lowbit.compare(model, ["int3 g32"], ["rtn", "gptq"], **OPTIONS, calibration=[WORDS], sequences=4, length=64)
    alone = lowbit.compare(model, ["int3 g32"], ["gptq"], **OPTIONS, calibration=[WORDS], sequences=4, length=64)
    assert found.rows[1].perplexity == alone.rows[0].perplexity
    assert found.rows[0].perplexity != found.rows[1].perplexity
    assert found.rows[0].nbytes == found.rows[1].nbytes


def test_every_event_is_told(model):
    events = []
    lowbit.compare(model, ["int8", "int4 g32"], **OPTIONS, progress=events.append)
    assert [(e.done, e.detail) for e in events if e.stage == "compare"] == [(0, "int8 rtn"), (1, "int4 g32 rtn"), (2, "")]
    assert {e.stage for e in events} == {"compare", "quantize", "evaluate"}
    for stage, times in (("quantize", 2), ("evaluate", 3)):
        own = [e for e in events if e.stage == stage]
        assert [e.done for e in own] == list(range(own[0].total + 1)) * times
    assert [e.stage for e in events[:2]] == ["evaluate", "evaluate"]  # the original comes first


def test_texts_by_name_and_the_usual_one(model):
    model.usual_text = "builtin"
    by_default = lowbit.compare(model, ["int8"], window=64, max_tokens=64)
    by_name = lowbit.compare(model, ["int8"], texts=["builtin"], window=64, max_tokens=64)
    assert by_default.texts == by_name.texts == ("builtin",)
    assert by_default.rows[0].perplexity == by_name.rows[0].perplexity


REFUSALS = {
    "blocks of the second": ({"weights": ["int8", "int4 g64"]}, ShapeError, r"layer model.layers.0.mlp.down_proj of shape"),
    "a solver": ({"weights": ["int8"], "solvers": ["rtm"]}, UnknownName, "no solver is called 'rtm'"),
    "a spec": ({"weights": ["int8", "int9"]}, SpecError, "no quantizer or format is called 'int9'"),
    "no weights": ({"weights": []}, DataError, r"weights are \[\] and .*; give a list of one or more of each"),
    "a string": ({"weights": "nvfp4"}, DataError, "weights are 'nvfp4' and"),
    "no solvers": ({"weights": ["int8"], "solvers": ()}, DataError, r"solvers \(\); give a list"),
    "a quantizer without words": (
        {"weights": ["int8", lowbit.quantizers.scheme.Scheme(lowbit.TableFormat("mine", tuple(float(i) for i in range(300))))]},
        SpecError, "format 'mine' is not registered",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_does_not_fit_is_refused_before_anything_is_measured(model, options, error, message):
    before, events = snapshot(model), []
    with pytest.raises(error, match=message):
        lowbit.compare(model, **options, **OPTIONS, progress=events.append)
    assert events == []
    assert_as_before(model, before)


def test_weights_that_are_no_numbers_are_refused_before_anything_is_measured(model):
    events = []
    with torch.no_grad():
        model.module.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"model.layers.1.mlp.up_proj.weight holds 1 NaN"):
        lowbit.compare(model, ["int8"], **OPTIONS, progress=events.append)
    assert events == []


@pytest.mark.parametrize("stage", ["quantize", "evaluate"])
def test_an_interruption_leaves_the_model_as_it_was(model, stage):
    before, seen = snapshot(model), []

    def interrupt(event):
        seen.append(event)
        if sum(e.stage == stage for e in seen) == 6 and event.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lowbit.compare(model, ["int4 g32", "int8"], **OPTIONS, progress=interrupt)
    assert_as_before(model, before)


def test_originals_are_put_back_where_they_were(model):
    made, before = plan(model.module, "int8"), snapshot(model)
    with originals_kept(model, made):
        model.module.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(96, 64))
        model.module.model.layers[0].mlp.down_proj = nn.Identity()
    assert_as_before(model, before)


def test_residual_channels_are_counted():
    """64 more channels for inputs of 256 and of 768: by hand, over the weights of a block of the built-in model."""
    found = lowbit.compare(
        lowbit.open_model("builtin"), ["mxfp4"], transforms=[["arcquant:channels=64"]], activations="mxfp4", max_tokens=600,
        calibration=["builtin"], sequences=1, length=64,
    )  # fmt: skip
    shapes = [(256, 256), (128, 256), (128, 256), (256, 256), (768, 256), (768, 256), (256, 768)]
    times = sum(out * (n + 64) for out, n in shapes) / sum(out * n for out, n in shapes)
    assert f"inputs have {4.25 * times:.3f} bits a number, not 4.250, and a product" in found.notes[-1]
    assert f"reads its weights {times:.3f} times as wide" in found.notes[-1]
