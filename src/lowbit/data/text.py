"""Text to measure and calibrate on: the built-in one, a file, or a named set."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lowbit.errors import DataError

#: the data inside the package
FOLDER = Path(__file__).resolve().parents[1] / "builtin"


@dataclass(frozen=True)
class Text:
    """A text and what the user called it.

    Args:
        name: as given to ``load_text``; names the text in every table and file.
        content: the characters, exactly as the source holds them.
    """

    name: str
    content: str


def load_text(spec: str) -> Text:
    """The text that a user's word stands for; a known name wins over a file of that name (``./builtin`` is the file).

    ==================  =========================================================================
    builtin             sources of Python's standard library that the built-in model never saw
    wikitext2           ``$LOWBIT_DATA/wikitext-2/valid.txt``
    wikitext2:first     its first half, cut at the line boundary nearest the middle
    wikitext2:second    its second half
    pydoc               the topics of Python's ``help()``; they differ between versions of Python
    anything else       the path of a UTF-8 text file
    ==================  =========================================================================

    Raises:
        DataError: the text is missing, empty or not UTF-8, or LOWBIT_DATA is needed and not set.
    """
    load = NAMED.get(spec)
    content = load() if load is not None else _file(spec)
    if not content.strip():
        raise DataError(f"text {spec!r} is empty; give a text with at least two tokens")
    return Text(spec, content)


def _file(spec: str) -> str:
    try:
        return _read(Path(spec), spec)
    except FileNotFoundError as error:
        known = ", ".join(NAMED)
        raise DataError(f"no text is called {spec!r} and there is no such file; known are {known} and paths of UTF-8 files") from error


def _read(path: Path, spec: str) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise  # the caller knows what should have been there
    except OSError as error:
        raise DataError(f"text {spec!r} cannot be read: {path}: {error.strerror}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"text {spec!r} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; convert the file to UTF-8"
        ) from error


def _builtin() -> str:
    path = FOLDER / "heldout.txt"
    try:
        return _read(path, "builtin")
    except FileNotFoundError as error:
        raise DataError(f"text 'builtin' is not at {path}; this installation of lowbit is not complete, install it again") from error


def _wikitext2() -> str:
    root = os.environ.get("LOWBIT_DATA")
    if not root:
        raise DataError("text 'wikitext2' needs LOWBIT_DATA=FOLDER in the environment, where FOLDER/wikitext-2/valid.txt is the text")
    path = Path(root) / "wikitext-2" / "valid.txt"
    try:
        return _read(path, "wikitext2")
    except FileNotFoundError as error:
        raise DataError(f"text 'wikitext2' is not at {path}; set LOWBIT_DATA to the folder that holds wikitext-2/valid.txt") from error


def _wikitext2_first() -> str:
    return halves(_wikitext2())[0]


def _wikitext2_second() -> str:
    return halves(_wikitext2())[1]


def _pydoc() -> str:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ModuleNotFoundError as error:
        raise DataError(f"text 'pydoc' needs the module {error.name}, which this Python was installed without") from error
    return "\n".join(topics.values())


def halves(content: str) -> tuple[str, str]:
    """The text cut in two after the line end nearest its middle; of two equally near, the earlier.

    Raises:
        DataError: the text has one line only.
    """
    middle = len(content) // 2
    before = content.rfind("\n", 0, middle) + 1
    after = content.find("\n", middle) + 1
    cuts = [cut for cut in (before, after) if 0 < cut < len(content)]
    if not cuts:
        raise DataError("a text of one line has no halves; give a text with a line end inside")
    cut = min(cuts, key=lambda place: abs(2 * place - len(content)))
    return content[:cut], content[cut:]


#: name -> how to get it
NAMED: dict[str, Callable[[], str]] = {
    "builtin": _builtin,
    "wikitext2": _wikitext2,
    "wikitext2:first": _wikitext2_first,
    "wikitext2:second": _wikitext2_second,
    "pydoc": _pydoc,
}
