"""lowbit generate: prompt and what the model adds on standard output, the time on standard error, bad input in one line."""

import pytest

import lowbit


def test_the_prompt_and_what_follows(command):
    done = command("generate", "builtin", "import ", "--max-new-tokens", "12")
    assert done.code == 0
    assert done.out == "import " + lowbit.open_model("builtin").generate("import ", 12) + "\n"
    assert done.err.strip().endswith(" s")


def test_there_is_a_prompt_to_begin_with(command):
    assert command("generate", "builtin", "--max-new-tokens", "4").out.startswith("def ")


def test_a_seed_repeats_what_was_drawn(command):
    outs = [command("generate", "builtin", "--temperature", "1", "--max-new-tokens", "24", "--seed", s).out for s in ("3", "3", "4")]
    assert outs[0] == outs[1] != outs[2]


def test_a_chat_goes_through_the_template_and_shows_the_answer_only(command, llama_folder):
    done = command("generate", str(llama_folder()), "hello", "--chat", "--max-new-tokens", "6")
    assert done.out == lowbit.open_model(str(llama_folder())).generate("hello", 6, chat=True) + "\n"


def test_words_in_brackets_are_no_markup(command):
    assert command("generate", "builtin", "[bold]x[/]", "--max-new-tokens", "1").out.startswith("[bold]x[/]")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["builtin", "hello", "--chat"], "the built-in model has no chat template; give it the start of a Python file"),
        (["builtin", "x" * 600], "tokens are more than the 512 positions of this model"),
        (["./nowhere"], "there is no model at './nowhere'; give a folder, a .gguf file, a hub id or 'builtin'"),
        (["builtin", "x", "--device", "gpu"], "the device 'gpu' cannot be used; this torch can use cpu"),
    ],
)
def test_bad_input_ends_in_one_line(command, arguments, message):
    done = command("generate", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.startswith("lowbit: ")
    assert done.err.count("\n") == 1


def test_an_empty_prompt_of_a_model_without_a_start(command, llama_folder):
    done = command("generate", str(llama_folder()), "")
    assert (done.code, done.err) == (2, "lowbit: an empty prompt; give at least one character\n")
