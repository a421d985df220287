"""Progress: a bar for each stage on a terminal, a line now and then elsewhere; words of the user are shown as they are."""

import io

import pytest
from rich.console import Console

from lowbit import progress
from lowbit.progress import Progress, bars


@pytest.fixture
def terminal(monkeypatch):
    """What would be drawn on a terminal of 160 columns."""
    drawn = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=drawn, force_terminal=True, width=160, color_system=None))
    return drawn


def run(*events):
    with bars() as show:
        for event in events:
            show(event)


def test_a_record_is_a_frozen_value():
    event = Progress("quantize", 1, 4, "layer")
    assert event == Progress("quantize", 1, 4, "layer") != Progress("quantize", 1, 4)
    with pytest.raises(AttributeError):
        event.done = 2


def test_stages_are_drawn_with_their_counts(terminal):
    run(Progress("quantize", 0, 3, "layers.0"), Progress("evaluate", 0, 8, "builtin"), Progress("quantize", 2, 3, "layers.2"))
    assert all(word in terminal.getvalue() for word in ("quantize", "2/3", "layers.2", "evaluate", "0/8", "builtin"))


def test_a_stage_that_begins_again_starts_from_zero(terminal):
    run(Progress("evaluate", 0, 2), Progress("evaluate", 2, 2), Progress("evaluate", 0, 5, "second"))
    last = terminal.getvalue().rsplit("evaluate", 1)[1]
    assert "0/5" in last
    assert "2/2" not in last


@pytest.mark.parametrize("words", ["[bold]", "[/no such tag]", "data/[1].txt", "{x}", "\\["])
def test_words_of_the_user_are_no_markup(terminal, words):
    run(Progress("evaluate", 0, 2, words))
    assert words in terminal.getvalue()


def test_an_error_inside_comes_through_and_ends_the_bar(terminal):
    with pytest.raises(KeyError), bars() as show:
        show(Progress("quantize", 0, 2))
        raise KeyError("x")


def test_short_work_says_nothing_where_there_is_no_terminal(capsys):
    run(Progress("quantize", 0, 2), Progress("quantize", 2, 2))
    assert capsys.readouterr() == ("", "")


def test_long_work_says_where_it_stands_in_a_log(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with bars() as show:
        for at, event in [
            (1, Progress("quantize", 0, 30, "layers.0")),
            (32, Progress("quantize", 1, 30, "layers.1")),
            (60, Progress("quantize", 2, 30, "layers.2")),
            (91, Progress("quantize", 3, 30, "layers.3")),
            (200, Progress("evaluate", 0, 8)),
        ]:
            now[0] = at
            show(event)
    assert capsys.readouterr() == (
        "",
        "quantize 1 of 30 after 31 s, about 899 s left: layers.1\n"
        "quantize 3 of 30 after 90 s, about 810 s left: layers.3\n"
        "evaluate 0 of 8 after 0 s\n",
    )


def test_nothing_is_drawn_when_it_is_off(terminal):
    with bars(enabled=False) as show:
        show(Progress("quantize", 0, 2))
    assert terminal.getvalue() == ""


def test_it_goes_to_standard_error(monkeypatch):
    asked = []
    monkeypatch.setattr(progress, "Console", lambda stderr: asked.append(stderr) or Console(file=io.StringIO()))
    run(Progress("quantize", 0, 2))
    assert asked == [True]
