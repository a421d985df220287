"""lowbit cite NAME: the sources of everything with that name, as BibTeX."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Annotated

import typer

from lowbit.catalog import Entry, Source
from lowbit.cli.where import hits

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})(?:v\d+)?")
SPECIAL = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"})


def escape(text: str) -> str:
    """Text with what TeX reads as commands made literal."""
    return text.translate(SPECIAL)


def people(authors: str) -> str:
    """``Frantar, Hoefler`` as ``Frantar and Hoefler``; ``et al.`` as ``and others``; several capitalized words are one name."""
    names = [n.strip() for n in authors.replace(" et al.", ", others").split(",")]
    return " and ".join("{" + escape(n) + "}" if re.match(r"[A-Z]\S* \S", n) else escape(n) for n in names if n)


def key(source: Source) -> str:
    """First author's name (of an organization the first word), year and first long word of the title: frantar2022gptq."""
    words = re.split(r",| et al\.", source.authors)[0].split()
    first = words[-1] if words[0][0].islower() else words[0]
    word = next((w for w in re.findall(r"\w+", source.title) if len(w) > 2 and w.lower() not in ("the", "and", "for", "towards")), "")
    plain = unicodedata.normalize("NFKD", f"{first}{source.year}{word}").encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def entry_text(source: Source, label: str) -> str:
    """One BibTeX entry."""
    lines = [f"  title = {{{{{escape(source.title)}}}}},", f"  author = {{{people(source.authors)}}},", f"  year = {{{source.year}}},"]
    arxiv = ARXIV.fullmatch(source.where)
    if arxiv:
        lines += [f"  eprint = {{{arxiv[1]}}},", "  archivePrefix = {arXiv},", f"  url = {{https://arxiv.org/abs/{arxiv[1]}}},"]
    elif source.where.startswith(("https://", "http://")):
        lines.append(f"  url = {{{source.where}}},")
    else:
        lines.append(f"  howpublished = {{{escape(source.where)}}},")
    return f"@misc{{{label},\n" + "\n".join(lines) + "\n}"


def bibtex(entries: Iterable[Entry]) -> str:
    """One BibTeX entry a publication, each under a comment that says what here comes from which part of it."""
    users: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        users.setdefault((entry.source.title, entry.source.year), []).append(entry)
    texts, taken = [], set()
    for group in users.values():
        label = first = key(group[0].source)
        for letter in "bcdefghijklmnopqrstuvwxyz":
            if label not in taken:
                break
            label = first + letter
        taken.add(label)
        comments = [f"% {e.kind} {e.name}" + f": {e.source.parts}" * bool(e.source.parts) for e in group]
        texts.append("\n".join([*comments, entry_text(group[0].source, label)]))
    return "\n\n".join(texts)


def run(name: Annotated[str, typer.Argument(help="A name, an alias, or the id of a record of the literature catalogue.")]) -> None:
    """Print BibTeX for the sources of everything with that name."""
    print(bibtex(hits(name)))
