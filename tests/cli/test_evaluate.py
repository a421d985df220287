"""lowbit evaluate: the figures of lowbit.evaluate to the last digit, for originals and checkpoints; bad input ends in one line."""

import json
import re

import pytest

import lowbit
from lowbit.data.text import load_text


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "[words].txt"
    path.write_text("def f(x):\n    return x + 1\n" * 12)
    return path


@pytest.fixture
def evaluate(command, words):
    def call(model, *arguments):
        return command("evaluate", str(model), "--text", str(words), "--window", "64", *arguments)

    return call


def refused(done, message):
    assert done.code == 2, done
    assert re.search(message, done.err), done.err
    assert done.err.startswith("lowbit: ")
    assert done.err.count("\n") == 1


def test_the_perplexity_is_printed_to_the_last_digit(evaluate, llama_folder, words):
    found = lowbit.evaluate(lowbit.open_model(str(llama_folder())), [load_text(str(words))], window=64, stride=32, max_tokens=200)
    (score,) = found.scores
    done = evaluate(llama_folder(), "--stride", "32", "--max-tokens", "200")
    assert (done.code, done.err) == (0, "")
    first = f"{words}: perplexity {score.perplexity!r} over {score.tokens} tokens in {score.windows} windows of 64, stride 32\n"
    assert done.out.startswith(first)
    assert re.search(r"^\d+\.\d s, peak memory \d+ MB$", done.out, re.MULTILINE)


def test_a_model_does_not_differ_from_itself(evaluate, llama_folder):
    done = evaluate(llama_folder(), "--reference", str(llama_folder()))
    assert f"  from {llama_folder()}: KL divergence 0.00000 nats a token, top-1 agreement 1.0000\n" in done.out


def test_a_quantized_model_differs_from_the_original(evaluate, llama_folder, tmp_path):
    lowbit.save(lowbit.quantize(lowbit.open_model(str(llama_folder())), "int4 g32"), tmp_path / "out")
    done = evaluate(tmp_path / "out", "--reference", str(llama_folder()))
    (kl,) = re.findall(r"KL divergence (\S+) nats", done.out)
    assert float(kl) > 0.001


def test_json_holds_what_python_returns(evaluate, llama_folder, words, tmp_path):
    done = evaluate(llama_folder(), "--json", str(tmp_path / "figures.json"), "--reference", str(llama_folder()))
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "figures.json").read_text())
    expected = lowbit.evaluate(lowbit.open_model(str(llama_folder())), [load_text(str(words))], window=64).to_dict()
    assert found["texts"][str(words)]["perplexity"] == expected["texts"][str(words)]["perplexity"]
    assert found["texts"][str(words)]["kl"] == 0
    assert found.keys() == expected.keys()


def test_several_texts(evaluate, llama_folder, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("class A:\n    pass\n" * 10)
    done = evaluate(llama_folder(), "--text", str(other))
    assert len(re.findall("perplexity", done.out)) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--window", "1000"], "a window of 1000 tokens is longer than the context of .*; take at most 128$"),
        (["--window", "1"], "a window of 1 tokens scores nothing; take 2 or more$"),
        (["--stride", "65"], "stride 65 does not fit a window of 64 tokens; take 1 to 64$"),
        (["--max-tokens", "1"], "at most 1 tokens a text scores nothing; take 2 or more$"),
        (["--text", "nothing"], "no text is called 'nothing' and there is no such file; known are"),
        (["--device", "tpu"], "the device 'tpu' cannot be used; this torch can use cpu"),
        (["--dtype", "int8"], "no dtype is called 'int8'"),
        (["--reference", "./nowhere"], r"there is no model at './nowhere'"),
        (["--reference", "builtin"], "the reference holds other tokens or windows|the original has 256 tokens, this model 260"),
        (["--json", "/nowhere/at/all.json"], "all.json' cannot be written: there is no folder '/nowhere/at'$"),
    ],
)
def test_bad_options_end_in_one_line(evaluate, llama_folder, arguments, message):
    done = evaluate(llama_folder(), *arguments)
    refused(done, message)
    assert done.out == ""


def test_the_same_text_twice(evaluate, llama_folder, words):
    refused(evaluate(llama_folder(), "--text", str(words)), "is given twice; give each text once$")


def test_models_that_are_not_there(evaluate, tmp_path):
    refused(evaluate("./nowhere"), "there is no model at './nowhere'")
    refused(evaluate(tmp_path), "holds no lowbit.json: it is no lowbit checkpoint")


def test_a_checkpoint_keeps_its_dtypes(evaluate, llama_folder, tmp_path):
    lowbit.save(lowbit.open_model(str(llama_folder())), tmp_path / "out")
    refused(
        evaluate(tmp_path / "out", "--dtype", "bfloat16"),
        "is a checkpoint, which keeps the dtypes it was written with; leave out the dtype$",
    )


def test_no_file_is_written_when_it_fails(evaluate, llama_folder, tmp_path):
    target = tmp_path / "figures.json"
    refused(evaluate(llama_folder(), "--json", str(target), "--max-tokens", "1"), "scores nothing")
    assert not target.exists()
