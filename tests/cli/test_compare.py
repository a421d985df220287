"""lowbit compare: the table, the fixed keys of its JSON, the chart; the default list takes what fits; bad input in one line."""

import json
import re

import pytest

import lowbit
from lowbit.cli.compare import WEIGHTS, split
from lowbit.data.text import load_text
from lowbit.quantizers.spec import quantizer
from lowbit.quantizers.spec import text as spec_text

ROW = {"weights", "solver", "perplexity", "kl", "agreement", "bits_per_weight", "nbytes", "seconds", "texts"}
TOP = {"model", "notes", "activations", "texts", "window", "stride", "tokens", "peak_memory", "baseline", "rows"}


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("def f(x):\n    return x + 1\n" * 12)
    return path


@pytest.fixture
def compare(command, words, llama_folder):
    def call(*arguments, model=None):
        return command("compare", str(model or llama_folder()), "--text", str(words), "--window", "64", *arguments)

    return call


def refused(done, message, lines=1):
    assert done.code == 2, done
    assert re.search(message, done.err), done.err
    assert done.err.startswith("lowbit: ")
    assert done.err.count("\n") == lines


def test_the_table_names_every_combination(compare):
    done = compare("--weights", "int4 g32,nvfp4, mxfp4 even", "--solvers", "rtn")
    assert (done.code, done.err) == (0, "")
    for words in ("float32", "int4 g32", "nvfp4", "mxfp4 even", "rtn", "4.500", "4.250", "32.00"):
        assert words in done.out


def test_json_has_the_fixed_keys_and_the_figures_of_python(compare, llama_folder, words, tmp_path):
    done = compare("--weights", "int4 g32,nvfp4", "--json", str(tmp_path / "f.json"), "--max-tokens", "200")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "f.json").read_text())
    assert found.keys() == TOP
    assert all(row.keys() == ROW for row in (found["baseline"], *found["rows"]))
    assert [(r["weights"], r["solver"]) for r in found["rows"]] == [("int4 g32", "rtn"), ("nvfp4", "rtn")]
    model = lowbit.open_model(str(llama_folder()))
    expected = lowbit.compare(model, ["int4 g32", "nvfp4"], texts=[load_text(str(words))], window=64, max_tokens=200)
    for mine, theirs in zip(found["rows"], expected.rows, strict=True):
        assert (mine["perplexity"], mine["kl"]) == (theirs.perplexity[str(words)], theirs.kl[str(words)])
        assert (mine["nbytes"], mine["bits_per_weight"]) == (theirs.nbytes, theirs.bits_per_weight)
    assert found["baseline"]["kl"] is None


def test_quantized_inputs_are_named_beside_the_figures(compare, tmp_path):
    file, chart = tmp_path / "f.json", tmp_path / "chart.html"
    done = compare("--weights", "int4 g32", "--activations", "int8 row", "--json", str(file), "--chart", str(chart), "--max-tokens", "64")
    assert done.code == 0, done.err
    assert "inputs of the quantized layers in int8" in " ".join(done.out.split())
    assert "inputs of the quantized layers in int8" in chart.read_text()
    assert json.loads(file.read_text())["activations"] == "int8"
    assert compare("--weights", "int4 g32", "--json", str(file), "--max-tokens", "64").out.count("inputs of") == 0
    assert json.loads(file.read_text())["activations"] is None


def test_the_chart_is_one_file(compare, tmp_path):
    done = compare("--weights", "int4 g32,nvfp4", "--chart", str(tmp_path / "chart.html"))
    assert done.code == 0, done.err
    page = (tmp_path / "chart.html").read_text()
    assert "<svg" in page
    assert "nvfp4" in page


def test_the_default_list_takes_what_fits_and_says_what_does_not(compare, tmp_path):
    """96 columns divide by 32, not by 64 or 128."""
    done = compare("--json", str(tmp_path / "f.json"), "--max-tokens", "64")
    assert done.code == 0, done.err
    taken = [row["weights"] for row in json.loads((tmp_path / "f.json").read_text())["rows"]]
    assert "nvfp4" in taken
    assert "int4 g32" in taken
    left = re.findall(r"^note: (.*) is left out: layer \S+ of shape", done.out, re.MULTILINE)
    assert {"int4 g64", "int4 g128"} <= set(left)
    assert sorted(taken + left) == sorted(spec_text(quantizer(w)) for w in split(WEIGHTS, "weights"))


def test_a_list_that_was_given_is_refused_whole(compare):
    done = compare("--weights", "int4 g32,int4 g64")
    refused(done, r"layer model.layers.0.mlp.down_proj of shape \(64, 96\): .*; --weights 'int4 g32' fits")
    assert done.out == ""


def test_every_default_fits_the_builtin_model():
    for spec in split(WEIGHTS, "weights"):
        for shape in ((256, 256), (128, 256), (768, 256), (256, 768)):
            assert quantizer(spec).nbytes(shape) > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--weights", " , "], "--weights is empty; separate several with commas$"),
        (["--solvers", ""], "--solvers is empty; separate several with commas$"),
        (["--weights", "nvfp4", "--solvers", "rtn,rtm"], r"no solver is called 'rtm'; did you mean 'rtn'\?$"),
        (["--weights", "nvfp4", "--solvers", "gptq"], "the method gptq needs calibration data"),
        (["--weights", "nvfp4", "--transforms", "none,quarot+"], r"--transforms 'quarot\+': nothing stands on one side of a \+"),
        (["--weights", "nvfp4", "--only", "nothing"], "--only 'nothing' matches none of the 16 layers"),
        (
            ["--weights", "nvfp4", "--activations", "int8 g64"],
            "--activations does not fit the 96 inputs of layer model.layers.0.mlp.down_proj",
        ),
        (["--weights", "nvfp4", "--window", "4096"], "a window of 4096 tokens is longer than the context"),
        (["--weights", "nvfp4", "--text", "nothing"], "no text is called 'nothing'"),
        (["--device", "gpu"], "the device 'gpu' cannot be used"),
        (["--dtype", "gpu"], "no dtype is called 'gpu'"),
        (["--json", "/nowhere/at/all.json"], "cannot be written: there is no folder '/nowhere/at'$"),
        (["--chart", "/"], "'/' is a folder; name a file$"),
    ],
)
def test_bad_options_end_in_one_line_before_any_work(compare, arguments, message):
    done = compare(*arguments)
    refused(done, message)
    assert done.out == ""


def test_a_spec_that_does_not_parse_is_shown_with_a_caret(compare):
    done = compare("--weights", "nvfp4,int4 g64 asm")
    refused(done, r"'asm' is no block, scale rule or key=value; did you mean 'asym'\?\n  int4 g64 asm\n           \^\n", lines=3)


def test_a_model_that_is_not_there(compare):
    refused(compare(model="./nowhere"), "there is no model at './nowhere'")


def test_no_file_is_written_when_it_fails(compare, tmp_path):
    target = tmp_path / "f.json"
    refused(compare("--weights", "nvfp4", "--json", str(target), "--max-tokens", "1"), "scores nothing")
    assert not target.exists()
