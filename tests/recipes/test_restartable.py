"""A run that is cut off goes on where it was and ends in the same bytes; what it does not own it does not touch."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import lowbit
from lowbit.checkpoint import writing
from lowbit.checkpoint.layout import MANIFEST, shard_name
from lowbit.data.text import Text
from lowbit.errors import OutputError
from lowbit.models.streaming import Streamed
from lowbit.nn.replace import IGNORE
from lowbit.recipes.calibration_data import calibration_source
from lowbit.recipes.plan import plan
from lowbit.recipes.restartable import RUN, check_enterable, quantize_restartably, unfinished

WORDS = Text("words", "def f(x):\n    return x + 1\n" * 40)
SHAPES = {"num_hidden_layers": 3, "tied": True, "dtype": "bfloat16"}


@pytest.fixture
def run(llama_folder):
    """Quantize the same model into a folder; ``streamed`` reads its blocks one at a time."""

    def call(folder, weights="nvfp4", solver="rtn", seed=0, streamed=False, ignore=IGNORE, tied=True, **options):
        path = str(llama_folder(**SHAPES | {"tied": tied}))
        model = Streamed.open(path) if streamed else lowbit.open_model(path)
        made = plan(model.module, weights, solver, ignore=ignore)
        source = calibration_source(model, [made], [WORDS], 4, 32)
        with unfinished(folder):
            return quantize_restartably(model, made, folder, source, seed=seed, **options)[0]

    return call


class Cut(Exception):
    """Stands for a kill."""


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("solver", ["rtn", "gptq", "signround:steps=3:start=qep"])
def test_the_bytes_do_not_depend_on_threads_runs_or_streaming(run, tmp_path, solver):
    before, found = torch.get_num_threads(), []
    try:
        for i, (threads, streamed) in enumerate([(1, False), (2, False), (2, False), (1, True)]):
            torch.set_num_threads(threads)
            found.append(run(tmp_path / str(i), "int4 g32", solver, streamed=streamed))
    finally:
        torch.set_num_threads(before)
    assert len({m.digest for m in found}) == 1
    assert len({json.dumps(sorted(m.tied.items())) for m in found}) == 1
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("solver", ["rtn", "gptq"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_output_layer_of_a_streamed_model(run, tmp_path, solver, tied):
    """It lies outside of the blocks and reads what the last of them gives."""
    found = [run(tmp_path / str(s), "int4 g32", solver, streamed=s, ignore=(), tied=tied) for s in (False, True)]
    assert "lm_head" in found[0].layers
    assert found[0].digest == found[1].digest


@pytest.mark.parametrize("solver", ["rtn", "gptq", "signround:steps=3"])
@pytest.mark.parametrize("units", [0, 1, 2, 3])
def test_a_run_that_is_cut_off_ends_in_the_same_bytes(run, tmp_path, solver, units):
    whole = run(tmp_path / "whole", "int4 g32", solver)
    solved = []

    def cut(event):
        solved.append(event)
        if event.done == units:
            raise Cut

    with pytest.raises(Cut):
        run(tmp_path / "cut", "int4 g32", solver, progress=cut)
    if units == 0:
        assert not (tmp_path / "cut").exists()
    else:
        assert {f"unit-{i:05}.json" for i in range(1, units + 1)} | {RUN} <= contents(tmp_path / "cut").keys()
        assert not (tmp_path / "cut" / MANIFEST).exists()
    assert run(tmp_path / "cut", "int4 g32", solver).digest == whole.digest
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_finished_unit_is_not_done_again(run, tmp_path, monkeypatch):
    with pytest.raises(Cut):
        run(tmp_path / "cut", progress=lambda event: (_ for _ in ()).throw(Cut) if event.done == 2 else None)
    times = {name: (tmp_path / "cut" / name).stat().st_mtime_ns for name in (shard_name(1), shard_name(2))}
    run(tmp_path / "cut")
    assert {name: (tmp_path / "cut" / name).stat().st_mtime_ns for name in times} == times


def test_a_damaged_unit_is_done_again(run, tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(Cut):
        run(tmp_path / "cut", progress=lambda event: (_ for _ in ()).throw(Cut) if event.done == 2 else None)
    shard = tmp_path / "cut" / shard_name(1)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert run(tmp_path / "cut").digest == whole.digest
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change, word", [({"weights": "int4 g32"}, "recipe"), ({"seed": 1}, "seed"), ({"solver": "gptq"}, "recipe")])
def test_a_run_of_other_inputs_is_refused_with_what_differs(run, tmp_path, change, word):
    with pytest.raises(Cut):
        run(tmp_path / "cut", progress=lambda event: (_ for _ in ()).throw(Cut) if event.done == 1 else None)
    before = contents(tmp_path / "cut")
    with pytest.raises(OutputError, match=rf"holds an unfinished run with another .*{word}.*; name another folder, or empty this one"):
        run(tmp_path / "cut", **change)
    assert contents(tmp_path / "cut") == before


def test_a_full_disk_leaves_finished_units(run, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    original, count = writing.save_file, iter(range(99))

    def full(tensors, path):
        original(tensors, path)
        if next(count) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "save_file", full)
    with pytest.raises(OutputError, match="the disk is full"):
        run(tmp_path / "cut")
    assert sorted(n for n in contents(tmp_path / "cut") if n.startswith(("unit", "model"))) == [
        shard_name(1), shard_name(2), "unit-00001.json", "unit-00002.json",
    ]  # fmt: skip
    assert run(tmp_path / "cut").digest == whole.digest


def test_a_folder_with_something_else_is_refused(run, tmp_path):
    (tmp_path / "mine").write_text("mine")
    for call in (lambda: run(tmp_path), lambda: check_enterable(tmp_path)):
        with pytest.raises(OutputError, match="is not empty"):
            call()
    assert contents(tmp_path) == {"mine": b"mine"}


def test_a_finished_folder_is_refused(run, tmp_path):
    run(tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(OutputError, match="is not empty"):
        run(tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_looking_makes_no_folder(tmp_path):
    check_enterable(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_checkpoint_of_a_run_loads(run, tmp_path, llama_folder):
    run(tmp_path / "out", "int4 g32")
    model = lowbit.quantize(lowbit.open_model(str(llama_folder(**SHAPES))), "int4 g32")
    ids = model.encode("def f(x):")[None]
    assert torch.equal(lowbit.load(tmp_path / "out").logits(ids), model.logits(ids))


def test_a_streamed_run_loads_with_every_tensor_its_own(run, tmp_path, llama_folder):
    """Norms of one shape are read one after the other into the same memory; none may be taken for another."""
    manifest = run(tmp_path / "out", "int4 g32", streamed=True)
    assert manifest.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    model = lowbit.quantize(lowbit.open_model(str(llama_folder(**SHAPES))), "int4 g32")
    ids = model.encode("def f(x):")[None]
    assert torch.equal(lowbit.load(tmp_path / "out").logits(ids), model.logits(ids))


def test_a_file_that_happens_to_be_called_like_ours_costs_nothing(run, tmp_path):
    """A folder of somebody's experiments with a run.json of its own is refused and stays as it is."""
    (tmp_path / RUN).write_text('{"learning_rate": 3e-4}')
    (tmp_path / "results.csv").write_text("1,2,3")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="holds an unfinished run with another model, "):
        run(tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / RUN).write_text("[1]")
    with pytest.raises(OutputError, match=r"run.json' is damaged"):
        run(tmp_path)
    assert (tmp_path / "results.csv").read_text() == "1,2,3"


def test_a_quantized_table_leaves_a_tied_head_its_numbers_when_streamed(tmp_path, llama_folder):
    path = str(llama_folder(**SHAPES))
    logits = []
    for name, model in (("memory", lowbit.open_model(path)), ("streamed", Streamed.open(path))):
        made = plan(model.module, "int4 g32", only=["Embedding"])
        quantize_restartably(model, made, tmp_path / name, calibration_source(model, [made], [], 1, 2))
        again = lowbit.load(tmp_path / name)
        logits.append(again.logits(again.encode("def f(x):")[None]))
    assert torch.equal(logits[0], logits[1])
    expected = lowbit.open_model(path)
    lowbit.quantize(expected, "int4 g32", only=["Embedding"])
    assert torch.equal(logits[0], expected.logits(expected.encode("def f(x):")[None]))


@pytest.mark.parametrize("solver", ["rtn", "gptq"])
@pytest.mark.parametrize(("tensor", "word"), [("model.norm.weight", "other weights"), ("model.layers.0.mlp.down_proj.weight", "")])
def test_weights_that_have_changed_since_are_not_taken_for_the_same(llama_folder, tmp_path, tensor, word, solver):
    """A run is cut off, and the model in that place is another one when it goes on: later units depend on it too."""

    def run(folder, change, progress=None):
        model = lowbit.open_model(str(llama_folder(**SHAPES)))
        with torch.no_grad():
            model.module.get_parameter(tensor).mul_(1.5 if change else 1.0)
        made = plan(model.module, "int4 g32", solver)
        source = calibration_source(model, [made], [WORDS], 4, 32)
        return quantize_restartably(model, made, folder, source, progress=progress)[0]

    whole = run(tmp_path / "whole", True)
    with pytest.raises(Cut):
        run(tmp_path / "cut", False, lambda event: (_ for _ in ()).throw(Cut) if event.done == 2 else None)
    if word:
        with pytest.raises(OutputError, match=f"holds an unfinished run with another {word}; name another folder"):
            run(tmp_path / "cut", True)
        return
    assert run(tmp_path / "cut", True).digest == whole.digest


def test_what_a_kill_leaves_half_written_is_no_obstacle(run, tmp_path):
    """Before run.json is whole the folder holds its temporary file only; later ones lie beside finished shards."""
    whole = run(tmp_path / "whole")
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / f".{RUN}.4321.part").write_text('{"mod')
    check_enterable(cut)
    with pytest.raises(Cut):
        run(cut, progress=lambda event: (_ for _ in ()).throw(Cut) if event.done == 2 else None)
    for name in (shard_name(3), "unit-00003.json", MANIFEST, RUN):
        (cut / f".{name}.4321.part").write_bytes(b"half")
    (cut / ".mine.part").write_text("not one of ours")
    assert run(cut).digest == whole.digest
    assert contents(cut) == contents(tmp_path / "whole") | {".mine.part": b"not one of ours"}


def test_a_kill_between_the_manifest_and_the_end_of_the_run(run, tmp_path):
    """run.json goes last, so the same command cleans up what is left and ends as it would have."""
    whole = run(tmp_path / "whole")

    def keep(event):
        if event.done == event.total:
            for name in (RUN, "unit-00001.json", "unit-00002.json", "unit-00003.json"):
                (tmp_path / name).write_bytes((tmp_path / "cut" / name).read_bytes())

    run(tmp_path / "cut", progress=keep)
    for name in (RUN, "unit-00002.json", "unit-00003.json"):
        (tmp_path / name).rename(tmp_path / "cut" / name)
    check_enterable(tmp_path / "cut")
    assert run(tmp_path / "cut").digest == whole.digest
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


KILLED = """
import sys
from pathlib import Path
import torch
from lowbit.data.text import load_text
from lowbit.models.builtin import Builtin
from lowbit.recipes.calibration_data import calibration_source
from lowbit.recipes.plan import plan
from lowbit.recipes.restartable import quantize_restartably

torch.set_num_threads(1)
model = Builtin.load()
made = plan(model.module, "int4 g64", sys.argv[2])
source = calibration_source(model, [made], [load_text("builtin")], 4, 64)
print(quantize_restartably(model, made, Path(sys.argv[1]), source)[0].digest)
"""


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["gptq", "signround:steps=8"])
def test_sigkill_at_random_moments_ends_in_the_same_bytes(tmp_path, solver):
    """The built-in model in a process of its own, killed up to three times in one folder, then left to end."""
    environment = os.environ | {"PYTHONPATH": str(Path(lowbit.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    cut, moments = tmp_path / "cut", [random.uniform(0.0, 1.0) for _ in range(3)]

    def start(folder):
        return subprocess.Popen([sys.executable, "-c", KILLED, str(folder), solver], stdout=subprocess.PIPE, text=True, env=environment)

    whole, finished_units = start(tmp_path / "whole"), []
    for moment in moments:
        process = start(cut)
        while process.poll() is None and not (cut / RUN).exists():
            time.sleep(0.01)
        time.sleep(moment)
        process.kill()
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        finished_units.append(len(list(cut.glob("unit-*.json"))))
        assert not (cut / MANIFEST).exists() or (cut / RUN).exists()
    else:
        last = start(cut)
        last.communicate()
        assert last.returncode == 0, moments
    assert finished_units and finished_units == sorted(finished_units)
    whole.communicate()
    assert contents(cut) == contents(tmp_path / "whole"), moments
