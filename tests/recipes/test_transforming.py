"""Transforms in whole models: what they compute stays, checkpoints hold them, runs repeat to the bit."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from tests.nn.test_graph import GATED, hugging_face
from torch import nn

import lowbit
from lowbit import catalog
from lowbit.data.text import Text
from lowbit.errors import DataError, ShapeError, UnsupportedError
from lowbit.models.streaming import Streamed
from lowbit.nn.change import attached
from lowbit.nn.graph import block_names
from lowbit.recipes.calibrate import units
from lowbit.recipes.calibration_data import calibration_source
from lowbit.recipes.plan import plan
from lowbit.recipes.restartable import quantize_restartably
from lowbit.recipes.transforming import Edits, Stretch, Transforming
from lowbit.recipes.walk import Source, Walk, always
from lowbit.transforms.transform import Scaled, text, transform

WORDS = Text("words", "def f(x):\n    return x + 1\n" * 40)
EVERY = [pytest.param(e.name, id=e.name) for e in catalog.entries("transform")]
CHAIN = ["smoothquant:edges=all", "quarot:size=16"]


def transformed(module: nn.Module, forward, samples, specs, weights="int8"):
    """Only transform, quantize nothing; the edits, and a function that tells what was left alone."""
    made = plan(module, weights, transforms=specs, activations="int8 tensor")
    edits = Edits(module)
    work = Transforming(module, made.transforms, made.activations, 0, edits)
    work.start()
    names = block_names(module)
    walk = Walk(module, names, Source(samples, forward), False, always, None) if names else None
    left = []
    for unit in units(module, made):
        if unit.name or not names:
            run = (lambda i, name=unit.name: walk.run(name, i)) if walk else (lambda i: forward(samples[i]))
            inside = {p.name.removeprefix(unit.name + "."): p for p in unit.layers}
            left += work.apply(Stretch(module.get_submodule(unit.name), unit.name, run, len(samples)), inside)
            for i in range(len(samples)) if walk else ():
                walk.quantized[i] = walk.run(unit.name, i)
    return edits, left


def ids(count=3, length=16):
    return list(torch.randint(0, 32, (count, 1, length), generator=torch.Generator().manual_seed(0)))


LLMS = [
    ("llama", {**GATED, "tie_word_embeddings": True}), ("qwen3", {**GATED, "head_dim": 8}), ("gemma3", {**GATED, "head_dim": 8}),
    ("opt", {"ffn_dim": 24, "word_embed_proj_dim": 16}), ("neox", {"intermediate_size": 24}),
]  # fmt: skip


@pytest.mark.parametrize("spec", EVERY)
@pytest.mark.parametrize(("name", "changes"), LLMS, ids=[name for name, _ in LLMS])
def test_the_logits_stay(name, changes, spec):
    """Or the model is refused with a reason: its norms take means off, or stand between a layer and the stream."""
    model = hugging_face(name, **changes)
    with torch.no_grad():
        for p in model.parameters():  # norms that do something
            if p.ndim == 1:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    run = lambda x: model(input_ids=x, use_cache=False).logits  # noqa: E731
    with torch.no_grad():
        expected = run(ids()[0])
    stream = any(type(s).__name__ == "StreamHadamard" for s in transform(spec).steps())
    if stream and name in ("opt", "neox", "gemma3"):
        with pytest.raises(UnsupportedError, match="takes the mean of the stream off|computes something else"):
            transformed(model, run, ids(), [spec])
        return
    edits, _ = transformed(model, run, ids(), [spec])
    with torch.no_grad():
        torch.testing.assert_close(run(ids()[0]), expected, rtol=1e-3, atol=1e-4)
    edits.undo()
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_transforms_do_something():
    """What is absorbed changes norms and weights, what is not stands in front of layers."""
    model = hugging_face("llama", **GATED)
    run = lambda x: model(input_ids=x, use_cache=False).logits  # noqa: E731
    before = copy.deepcopy(model)
    transformed(model, run, ids(), CHAIN[:1])
    assert not torch.equal(model.model.layers[1].input_layernorm.weight, before.model.layers[1].input_layernorm.weight)
    assert not torch.equal(model.model.layers[1].mlp.up_proj.weight, before.model.layers[1].mlp.up_proj.weight)
    assert not [n for n, m in model.named_modules() if attached(m)]
    model = before
    transformed(model, lambda x: model(input_ids=x, use_cache=False).logits, ids(), ["quarot:size=8"])
    where = [n for n, m in model.named_modules() if attached(m)]
    assert where == ["model.embed_tokens", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "model.norm"]
    assert torch.equal(model.model.layers[1].input_layernorm.weight, torch.ones(16))


@pytest.mark.parametrize("spec", EVERY)
def test_a_network_of_convolutions(spec):
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4)]
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), *head
    ).eval()  # fmt: skip
    samples = [torch.randn(1, 4, 4, 4) for _ in range(3)]
    with torch.no_grad():
        expected = net(samples[0])
    if "quarot" in spec or "stream" in spec:
        with pytest.raises(UnsupportedError, match="turns a stream from embeddings"):
            transformed(net, net, samples, [spec], "int8 row")
        return
    if spec == "outlier_suppression_plus":
        spec += ":shift=false"
    transformed(net, net, samples, [spec], "int8 row")
    with torch.no_grad():
        torch.testing.assert_close(net(samples[0]), expected, rtol=1e-3, atol=1e-4)


@pytest.fixture
def run(llama_folder):
    def call(folder, chain=CHAIN, solver="gptq", stop=None, model=None):
        opened = lowbit.open_model(str(llama_folder(num_hidden_layers=3, tied=True, dtype="float32"))) if model is None else model
        inputs = {"arcquant": "int4 g16", "static": "int8 tensor"}.get(chain[-1])
        made = plan(opened.module, "int4 g16", solver, transforms=chain, activations=inputs)
        source = calibration_source(opened, [made], [WORDS], 4, 32)

        def progress(event):
            if stop is not None and event.done == stop:
                raise KeyboardInterrupt

        return quantize_restartably(opened, made, folder, source, progress=progress)[0], opened

    return call


@pytest.mark.parametrize("chain", [CHAIN, ["os_plus"], ["awq", "hadamard:size=16"], ["arcquant"], ["smoothquant", "static"]], ids="+".join)
def test_a_checkpoint_gives_the_same_logits(run, tmp_path, chain):
    manifest, model = run(tmp_path / "whole", chain)
    loaded = lowbit.load(tmp_path / "whole", keep=True)
    x = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(loaded.logits(x), model.logits(x))
    assert manifest.recipe["transforms"] == [text(transform(t)) for t in chain]
    saved = lowbit.save(loaded, tmp_path / "again")
    assert saved.digest == manifest.digest
    assert saved.changes == manifest.changes
    if chain == ["smoothquant", "static"]:  # each edge has a range of its own
        specs = {facts["activations"] for facts in manifest.layers.values()}
        assert len(specs) == 12 and all(spec.startswith("int8 tensor delayed:") for spec in specs)


@pytest.mark.parametrize("solver", ["rtn", "gptq", "qep"])
def test_a_killed_run_ends_with_the_same_bytes(run, tmp_path, solver):
    whole, _ = run(tmp_path / "whole", solver=solver)
    for stop in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / str(stop), solver=solver, stop=stop)
        assert run(tmp_path / str(stop), solver=solver)[0].digest == whole.digest


def test_one_thread_or_two(run, tmp_path):
    before, found = torch.get_num_threads(), set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.add(run(tmp_path / str(threads), ["awq", "aqas", "os_plus", "quarot:size=16"])[0].digest)
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_a_failure_leaves_the_model_as_it_was(monkeypatch):
    model = lowbit.open_model("builtin")
    before = {n: t.clone() for n, t in model.module.state_dict().items()}

    def fails(self, *args):
        raise UnsupportedError("no more")

    solver = catalog.find("solver", "rtn")
    original, count = solver.solve, []
    monkeypatch.setattr(solver, "solve", lambda *a: fails(*a) if len(count) > 9 else count.append(1) or original(*a))
    with pytest.raises(UnsupportedError, match="no more"):
        lowbit.quantize(model, "int4 g64", transforms=["smoothquant", "quarot"], data="builtin", sequences=2, length=32)
    assert before.keys() == model.module.state_dict().keys()
    assert all(torch.equal(t, before[n]) for n, t in model.module.state_dict().items())


def test_a_hadamard_transform_helps_four_bit_inputs():
    """KL on the built-in model with weights and inputs in int4: less than half of what it is without."""
    model = lowbit.open_model("builtin")
    found = lowbit.compare(model, ["int4 g64"], transforms=[[], ["hadamard"]], activations="int4 row", max_tokens=600)
    none, hadamard = (row.kl["builtin"] for row in found.rows)
    assert hadamard < 0.5 * none
    assert [row.solver for row in found.rows] == ["rtn", "hadamard + rtn"]


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"transforms": ["hadamard:size=96"]}, ShapeError, "hadamard:size=96 in front of model.layers.0.*: Hadamard blocks of 96 do not"),
    ({"transforms": ["smoothquant"]}, DataError, r"the method smoothquant \+ rtn needs calibration data: name a text"),
    ({"transforms": ["quarot", "stream_hadamard"]}, UnsupportedError, "in another basis already; name one"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(options, error, message):
    model = lowbit.open_model("builtin")
    with pytest.raises(error, match=message):
        lowbit.quantize(model, "int4 g64", **options)
    assert not [n for n, m in model.module.named_modules() if attached(m)]


def test_a_transform_that_breaks_the_model_is_caught(kept_catalogue):
    smooth = catalog.find("transform", "smoothquant")
    good = smooth.fit

    class Liar(smooth):
        def fit(self, edge, stats, key):
            change = good(self, edge, stats, key)
            if change is not None:  # the norm does not follow
                object.__setattr__(change, "at_producer", lambda classes, count: Scaled(torch.ones(count)))
            return change

    catalog.register("transform", "liar", next(catalog.entries("transform")).source)(Liar)
    model = lowbit.open_model("builtin")
    with pytest.raises(UnsupportedError, match=re.escape("computes something else after liar: its results differ by")):
        lowbit.quantize(model, "int4 g64", transforms=[Liar()], data="builtin", sequences=2, length=32)


@pytest.mark.parametrize("chain", [CHAIN, ["os_plus"], ["awq"]], ids="+".join)
def test_streamed_models_give_the_same_checkpoint(run, tmp_path, llama_folder, chain):
    """Norms, biases and changes that transforms have made are kept while blocks come and go; nothing else is."""
    whole, _ = run(tmp_path / "whole", chain)
    opened = Streamed.open(str(llama_folder(num_hidden_layers=3, tied=True, dtype="float32")))
    streamed, _ = run(tmp_path / "streamed", chain, model=opened)
    assert streamed.digest == whole.digest
    assert streamed.changes == whole.changes
    kept = [n for n, p in opened.module.named_parameters() if p.device.type != "meta" and not n.endswith("bias")]
    assert kept == []
