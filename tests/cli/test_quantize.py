"""lowbit quantize: what it writes is what was measured; every bad input ends in one line, exit code 2, and nothing on disk."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lowbit
from lowbit.checkpoint import writing
from lowbit.checkpoint.layout import read_manifest
from lowbit.data.text import load_text
from lowbit.recipes import restartable

ROOT = Path(__file__).parents[2]


@pytest.fixture
def words(tmp_path):
    """A text of a few hundred tokens in a folder of its own."""
    path = tmp_path / "texts" / "words.txt"
    path.parent.mkdir()
    path.write_text("def f(x):\n    return x + 1\n" * 12)
    return path


@pytest.fixture
def llama(llama_folder, tmp_path):
    """A copy of the random model that a test may damage."""
    return Path(shutil.copytree(llama_folder(), tmp_path / "models" / "llama"))


@pytest.fixture
def quantize(command, words, llama, tmp_path):
    """Run the command on the random model: ``quantize("--weights", "nvfp4")``; the checkpoint goes to ``out``."""

    def call(*arguments, model=llama, output=tmp_path / "out"):
        place = () if output is None else ("-o", str(output))
        return command("quantize", str(model), "--text", str(words), "--window", "64", *place, *arguments)

    return call


def refused(finished, message):
    """Exit code 2, one line on standard error, and that line."""
    assert finished.code == 2, finished
    assert re.search(message, finished.err), finished.err
    assert finished.err.startswith("lowbit: ")
    assert finished.err.count("\n") == 1, finished.err


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- the way through


def test_quantize_inspect_evaluate_generate(quantize, command, words, tmp_path, llama):
    out = str(tmp_path / "out")
    done = quantize("--weights", "int4 g32", "--override", "*.down_proj=int8", "--activations", "mxfp8")
    assert done.code == 0, done.err
    assert done.err == ""

    model = lowbit.open_model(str(llama))
    lowbit.quantize(model, "int4 g32", override={"*.down_proj": "int8"}, activations="mxfp8")
    expected = lowbit.evaluate(model, [load_text(str(words))], window=64)
    (perplexity,) = expected.perplexity.values()
    assert f"{perplexity:.4f}" in done.out

    inspected = command("inspect", out, "--verify")
    assert inspected.code == 0, inspected.err
    digest = read_manifest(tmp_path / "out").digest
    assert f"digest {digest}" in done.out
    assert f"digest {digest}" in inspected.out
    assert "match their digests" in inspected.out

    evaluated = command("evaluate", out, "--text", str(words), "--window", "64")
    assert f": perplexity {perplexity!r} over " in evaluated.out  # digit for digit

    generated = command("generate", out, "def f(", "--max-new-tokens", "8")
    assert generated.code == 0, generated.err
    assert generated.out == "def f(" + model.generate("def f(", 8) + "\n"


def test_before_and_after_are_shown_with_what_was_lost(quantize):
    done = quantize("--weights", "int4 g32", "--max-tokens", "128")
    for word in ("perplexity", "KL divergence", "top-1 agreement", "bits a quantized weight", "4.500", "32.00", "126 tokens"):
        assert word in done.out


def test_the_builtin_model(command, tmp_path):
    done = command("quantize", "builtin", "-o", str(tmp_path / "out"), "--only", "model.layers.0.mlp.*", "--max-tokens", "512")
    assert done.code == 0, done.err
    assert set(read_manifest(tmp_path / "out").layers) == {f"model.layers.0.mlp.{n}_proj" for n in ("gate", "up", "down")}
    assert "nvfp4" in command("inspect", str(tmp_path / "out")).out


def test_nothing_is_measured_when_no_tokens_are_asked_for(quantize):
    done = quantize("--max-tokens", "0")
    assert done.code == 0, done.err
    assert "perplexity" not in done.out
    assert "digest" in done.out


def test_two_runs_write_the_same_bytes(quantize, tmp_path):
    for name in ("a", "b"):
        quantize("--weights", "int4 g32 round=stochastic", "--seed", "7", "--shard-size", "20KB", output=tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    quantize("--weights", "int4 g32 round=stochastic", "--seed", "8", output=tmp_path / "c")
    assert read_manifest(tmp_path / "a").digest != read_manifest(tmp_path / "c").digest


def test_shards_have_the_size_asked_for(quantize, tmp_path):
    """Quantized blocks have a shard each; what is left over is cut."""
    quantize("--shard-size", "20KB", output=tmp_path / "small")
    quantize(output=tmp_path / "large")
    counts = [len(list((tmp_path / name).glob("*.safetensors"))) for name in ("small", "large")]
    assert counts[0] > counts[1]
    assert read_manifest(tmp_path / "small").digest == read_manifest(tmp_path / "large").digest


def test_tied_embeddings_are_stored_once(command, llama_folder, words, tmp_path):
    done = command("quantize", str(llama_folder(tied=True)), "-o", str(tmp_path / "out"), "--max-tokens", "0")
    assert done.code == 0, done.err
    assert "tied: {'lm_head.weight': 'model.embed_tokens.weight'}" in command("inspect", str(tmp_path / "out")).out


def test_layers_that_cannot_be_replaced_are_told(quantize, monkeypatch):
    monkeypatch.setattr("lowbit.nn.replace.refusal", lambda m: "it is odd" if m.weight.shape[0] == 96 else None)
    done = quantize("--max-tokens", "0")
    assert "note: model.layers.0.mlp.up_proj stays as it is: it is odd" in done.out


def test_a_dry_run_writes_nothing(quantize, tmp_path):
    for output in (None, tmp_path / "out"):
        done = quantize("--weights", "int4 g32", "--dry-run", output=output)
        assert done.code == 0, done.err
        assert "model.layers.1.mlp.down_proj" in done.out
        assert "14 layers" in done.out
        assert "peak about" in done.out
    assert not (tmp_path / "out").exists()


def test_the_command_itself(tmp_path):
    """Once as a process of its own: exit code and streams as a shell sees them."""
    arguments = ["quantize", "builtin", "--weights", "int4 g100", "-o", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "lowbit.cli.main", *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lowbit: layer model.layers.0.self_attn.q_proj of shape (256, 256): axis 1 has 256 elements")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---- bad input


BAD = {
    "unknown quantizer": (["--weights", "nvfp5x"], None),
    "unknown solver": (["--solver", "rtm"], r"no solver is called 'rtm'; did you mean 'rtn'\?$"),
    "a parameter that no solver has": (["--solver", "rtn:damping=1"], "solver rtn has no parameter 'damping=1'; it takes none$"),
    "blocks": (
        ["--weights", "int4 g64"],
        r"layer model.layers.0.mlp.down_proj of shape \(64, 96\): axis 1 has 96 elements, not a multiple of the block 64",
    ),
    "blocks of an override": (["--override", "*.down_proj=nvfp4 g64"], r"down_proj of shape .*; --override '\*.down_proj=nvfp4 g32' fits"),
    "a pattern": (
        ["--only", "model.layers.0.mlp.up_prj"],
        r"--only 'model.layers.0.mlp.up_prj' matches none of the 16 layers; did you mean 'model.layers",
    ),
    "an ignored pattern": (["--ignore", "lm_haed"], r"--ignore 'lm_haed' matches none of the 16 layers; did you mean 'lm_head'\?"),
    "a regular expression": (["--only", "re:["], r"the pattern 're:\[' is no regular expression"),
    "an override that is none": (["--override", "int8"], r"--override 'int8' is not PATTERN=SPEC; for instance '\*.down_proj=int8'"),
    "an unknown device": (["--device", "gpu"], "the device 'gpu' cannot be used; this torch can use cpu"),
    "an unknown dtype": (["--dtype", "fp4"], "no dtype is called 'fp4'; models are computed in float32, bfloat16, float16"),
    "no text": (["--text", "no such text"], "no text is called 'no such text' and there is no such file"),
    "a window beyond the context": (["--window", "512"], "a window of 512 tokens is longer than the context of .*; take at most 128"),
    "too few tokens": (["--max-tokens", "1"], "at most 1 tokens a text scores nothing; take 2 or more"),
    "a shard size": (["--shard-size", "big"], "'big' is no size above 0; write 500MB or 2GB"),
    "a solver that needs data": (["--solver", "gptq"], "the method gptq needs calibration data: name a text"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_options_end_in_one_line_and_leave_nothing(quantize, tmp_path, arguments, message):
    done = quantize(*arguments)
    if message is None:  # a spec string: the place is shown in two lines more
        assert done.code == 2
        assert done.err == "lowbit: no quantizer or format is called 'nvfp5x'; did you mean 'nvfp4'?\n  nvfp5x\n  ^\n"
    else:
        refused(done, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "spec, lines",
    [
        ("int4 g64 mes", ["'mes' is no block, scale rule or key=value; did you mean 'mse'?", "  int4 g64 mes", "           ^"]),
        ("int4,int8", ["no comma in a spec; words are separated by spaces", "  int4,int8", "      ^"]),
        ("int4 scale=(e4m3fn", ["a parenthesis is not closed", "  int4 scale=(e4m3fn", "             ^"]),
    ],
)
def test_a_spec_that_does_not_parse_is_shown_with_a_caret(quantize, tmp_path, spec, lines):
    done = quantize("--weights", spec)
    assert (done.code, done.err) == (2, "lowbit: " + "\n".join(lines) + "\n")
    assert not (tmp_path / "out").exists()


def test_what_a_refusal_of_blocks_offers_works(quantize, tmp_path):
    err = quantize("--weights", "int4 g64").err
    offers = [part for part in err.strip().split("; ") if part.startswith("--")]
    assert len(offers) == 2
    for i, offer in enumerate(offers):
        options = shlex.split(re.sub(" (fits|leaves it as it is)$", "", offer))
        weights = [] if "--weights" in options else ["--weights", "int4 g64"]
        done = quantize(*weights, *options, "--max-tokens", "0", output=tmp_path / str(i))
        assert done.code == 0, done.err
        assert "lm_head" not in read_manifest(tmp_path / str(i)).layers


def test_an_empty_text_and_one_of_a_single_token(quantize, tmp_path, words):
    words.write_text(" \n")
    refused(quantize(), "words.txt' is empty; give a text with at least two tokens")
    words.write_text("x")
    refused(quantize(), "words.txt' has too few tokens, 1; give a text with at least 2$")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_no_numbers_are_named_before_anything_is_measured(quantize, llama, tmp_path, value):
    path = llama / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float(value)
    save_file(tensors, path, metadata={"format": "pt"})
    counts = "1 NaN and 0 Inf" if value == "nan" else "0 NaN and 1 Inf"
    layer = "model.layers.1.mlp.up_proj"
    done = quantize()
    refused(done, f"{layer}.weight holds {counts}; repair the model, or leave the layer out: --ignore lm_head --ignore {layer}$")
    assert done.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, message",
    [
        ("./nowhere", "there is no model at './nowhere'; give a folder, a .gguf file, a hub id or 'builtin'$"),
        ("buildin", r"there is no folder 'buildin', and the Hugging Face hub cannot be asked .*; did you mean 'builtin'\?$"),
        ("nowhere.gguf", "there is no file 'nowhere.gguf'$"),
    ],
)
def test_a_model_that_is_not_there(quantize, tmp_path, name, message):
    refused(quantize(model=name), message)
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_models(quantize, tmp_path):
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    path.write_bytes(b"\x7fELF" + bytes(64))
    refused(quantize(model=path), "model.gguf' does not start with the letters GGUF, so it is no GGUF file$")
    path.write_bytes(b"GGUF\x03\x00\x00\x00\x10")
    refused(quantize(model=path), r"model.gguf' is truncated or damaged \(.*\); copy it again$")
    (tmp_path / "empty").mkdir()
    refused(quantize(model=tmp_path / "empty"), "empty' holds no lowbit.json: it is no lowbit checkpoint, or its writing was cut off$")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_not_empty_stays_as_it_is(quantize, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    refused(quantize(), "the output folder '.*out' is not empty; name another, or empty it$")
    assert contents(tmp_path / "out") == {"mine": b"mine"}
    (tmp_path / "file").write_text("mine")
    refused(quantize(output=tmp_path / "file"), "file' is a file; name a folder for the checkpoint$")


def test_no_output_folder_is_asked_for(quantize):
    refused(quantize(output=None), "say where the checkpoint goes with -o DIR, or see what would be done with --dry-run$")


def test_an_empty_output_folder_stays_empty_after_a_refusal(quantize, tmp_path):
    (tmp_path / "out").mkdir()
    refused(quantize("--max-tokens", "1"), "scores nothing")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_one_line(quantize, tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "save_file", full)
    refused(quantize(), r"model-00001.safetensors' cannot be written: the disk is full$")
    assert not (tmp_path / "out").exists()


def test_a_quantized_checkpoint_has_nothing_left_to_quantize(quantize, tmp_path):
    quantize("--max-tokens", "0", output=tmp_path / "first")
    refused(quantize("--max-tokens", "0", model=tmp_path / "first"), "no layer is left to quantize: 2 could be, --only is .*, --ignore is")


def test_what_was_ignored_can_be_quantized_later(quantize, tmp_path):
    quantize("--max-tokens", "0", "--weights", "int4 g32", output=tmp_path / "first")
    done = quantize("--max-tokens", "0", "--weights", "int8", "--only", "lm_head", "--ignore", "Embedding", model=tmp_path / "first")
    assert done.code == 0, done.err
    layers = read_manifest(tmp_path / "out").layers
    assert len(layers) == 15
    assert layers["lm_head"]["terms"] == [{"kind": "quantized", "spec": "int8"}]
    model, first = lowbit.load(tmp_path / "out"), lowbit.load(tmp_path / "first")
    assert torch.equal(model.module.model.layers[0].mlp.up_proj.weight.dense(), first.module.model.layers[0].mlp.up_proj.weight.dense())


def test_layers_that_no_kernel_serves_are_told(quantize, tmp_path):
    done = quantize("--weights", "e2m1 g32 sign_split")
    assert done.code == 0
    assert "warning: 14 layers multiply with a dense float32 copy, no faster than float: qlinear: negative numbers have scales" in done.out
    shutil.rmtree(tmp_path / "out")
    assert "dense float32 copy" not in quantize("--weights", "nvfp4").out


def test_a_bound_on_memory_is_held_against_what_the_dry_run_says(quantize):
    free = quantize("--weights", "int4 g32", "--dry-run", output=None)
    bound = quantize("--weights", "int4 g32", "--dry-run", "--memory", "4GB", output=None)
    assert (free.code, bound.code) == (0, 0), bound.err
    peaks = [int(re.search(r"peak about (\d+) MB", " ".join(done.out.split()))[1]) for done in (free, bound)]
    assert peaks[0] < 100 < peaks[1]  # the second is what --memory is held against, and so has the program in it
    refused(quantize("--memory", "1MB"), r"--memory 1MB is too little: about \d+ MB are needed \(\d+ MB for the program, .*\)$")


def test_the_peak_of_a_calibrated_run_has_its_matrices_in_it(quantize):
    plain, calibrated = (
        quantize("--weights", "int4 g32", "--dry-run", "--solver", s, *data, output=None)
        for s, data in (("rtn", ()), ("gptq", ("--calibrate", "builtin", "--sequences", "2", "--length", "16")))
    )
    peaks = [int(re.search(r"peak about (\d+) MB", run.out)[1]) for run in (plain, calibrated)]
    assert peaks[1] > 100 > peaks[0]  # the program too


def test_what_does_not_go_with_a_bound_on_memory(quantize, tmp_path):
    refused(quantize("--memory", "4GB", "--dtype", "int8"), "no dtype is called 'int8'; models are computed in float32, bfloat16, float16$")
    refused(quantize("--memory", "4GB", "--device", "cuda"), "--memory bounds a run on the cpu; leave out --memory, or --device cuda$")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_says_that_it_can_go_on_and_does(quantize, tmp_path, monkeypatch):
    whole = quantize("--max-tokens", "0", "--weights", "int4 g32", output=tmp_path / "whole")
    write, written = restartable._write_unit, []

    def stopped(*arguments):
        if written:
            raise KeyboardInterrupt
        written.append(write(*arguments))

    monkeypatch.setattr(restartable, "_write_unit", stopped)
    done = quantize("--max-tokens", "0", "--weights", "int4 g32")
    assert (done.code, done.err) == (130, "lowbit: interrupted; finished units stay: the same command goes on from there\n")
    monkeypatch.setattr(restartable, "_write_unit", write)
    again = quantize("--max-tokens", "0", "--weights", "int4 g32")
    assert (whole.code, again.code) == (0, 0), again.err
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
