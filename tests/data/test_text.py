"""Texts: what each name stands for, the two halves, and one clear line for each thing that can be wrong."""

import importlib
import pydoc_data.topics
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lowbit.data.text
from lowbit.data.text import NAMED, Text, halves, load_text
from lowbit.errors import DataError

LINES = "one\ntwo two\nthree three three\nfour four\nfive\n"


@pytest.fixture
def wikitext(tmp_path, monkeypatch):
    (tmp_path / "wikitext-2").mkdir()
    (tmp_path / "wikitext-2" / "valid.txt").write_text(LINES)
    monkeypatch.setenv("LOWBIT_DATA", str(tmp_path))


def test_the_builtin_text_is_python_source():
    text = load_text("builtin")
    assert text.name == "builtin"
    assert "def " in text.content and "import " in text.content


def test_pydoc_is_every_topic_in_dictionary_order():
    topics = pydoc_data.topics.topics
    content = load_text("pydoc").content
    assert len(content) == sum(map(len, topics.values())) + len(topics) - 1
    assert content.startswith(next(iter(topics.values())))
    assert content.endswith(list(topics.values())[-1])


def test_a_file_is_taken_exactly(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffcaf\u00e9\r\n\x00 \U0001f600\n".encode())
    assert load_text(str(path)) == Text(str(path), "\ufeffcaf\u00e9\r\n\x00 \U0001f600\n")


def test_a_name_wins_over_a_file_and_a_path_reaches_the_file(tmp_path, monkeypatch, wikitext):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wikitext2").write_text("mine")
    assert load_text("wikitext2").content == LINES
    assert load_text("./wikitext2").content == "mine"


def test_the_halves_of_wikitext_make_it_up(wikitext):
    first, second = load_text("wikitext2:first").content, load_text("wikitext2:second").content
    assert first == "one\ntwo two\nthree three three\n"  # 30 of 45: cuts are after 12 and 30, the middle is 22.5
    assert first + second == LINES


@given(st.text(alphabet="ab\n", min_size=2, max_size=40).filter(lambda t: "\n" in t[:-1]))
def test_the_cut_is_the_line_end_nearest_the_middle(content):
    first, second = halves(content)
    assert first + second == content
    assert first.endswith("\n") and second
    cuts = [i + 1 for i, letter in enumerate(content[:-1]) if letter == "\n"]
    assert len(first) in cuts
    assert abs(len(first) - len(content) / 2) == min(abs(cut - len(content) / 2) for cut in cuts)


@pytest.mark.parametrize("content", ["no end", "one end at the end\n", "a", "\n"])
def test_one_line_has_no_halves(content):
    with pytest.raises(DataError, match="a text of one line has no halves"):
        halves(content)


def expect(spec, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load_text(spec)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_known_ones():
    expect("wikitext3", "no text is called 'wikitext3' and there is no such file; known are " + ", ".join(NAMED))


def test_a_name_that_no_file_can_have():
    expect("x" * 5000, "cannot be read: ")


def test_an_installation_without_the_builtin_text(tmp_path, monkeypatch):
    monkeypatch.setattr(lowbit.data.text, "FOLDER", tmp_path)
    expect("builtin", f"text 'builtin' is not at {tmp_path / 'heldout.txt'}; this installation")


@pytest.mark.parametrize("spec", ["wikitext2", "wikitext2:first", "wikitext2:second"])
def test_no_data_folder(spec, monkeypatch):
    monkeypatch.delenv("LOWBIT_DATA", raising=False)
    expect(spec, "needs LOWBIT_DATA=FOLDER in the environment, where FOLDER/wikitext-2/valid.txt is the text")


def test_a_data_folder_without_the_text(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWBIT_DATA", str(tmp_path))
    expect("wikitext2", f"is not at {tmp_path / 'wikitext-2' / 'valid.txt'}; set LOWBIT_DATA")


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_an_empty_file(tmp_path, content):
    (tmp_path / "e.txt").write_text(content)
    expect(str(tmp_path / "e.txt"), "is empty; give a text with at least two tokens")


def test_a_file_that_is_not_utf8_names_the_byte(tmp_path):
    (tmp_path / "l.txt").write_bytes("naïve".encode("latin-1"))
    expect(str(tmp_path / "l.txt"), "is not UTF-8: byte 2 is 0xef; convert the file to UTF-8")


def test_a_folder_is_not_a_text(tmp_path):
    expect(str(tmp_path), "cannot be read")


def test_a_python_without_its_documentation(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("pydoc_data.topics")
    expect("pydoc", "text 'pydoc' needs the module pydoc_data.topics")
