"""The catalogue: names, aliases, collisions, plugins; every entry has a source and a place."""

from pathlib import Path

import pytest

from lowbit import catalog
from lowbit.catalog import Source, register
from lowbit.errors import NameCollision, UnknownName

SOURCE = Source("A title", "An author", 2024, "arXiv:0000.00000", parts="Eq. 1")
EVERY = [pytest.param(entry, id=f"{entry.kind} {entry.name}") for entry in catalog.entries()]


@pytest.mark.parametrize("entry", EVERY)
def test_every_entry_has_a_source_a_place_and_a_summary(entry):
    source = entry.source
    assert source.title and source.authors and source.where and 1900 < source.year < 2100
    file = Path(entry.file)
    assert file.is_file() and catalog.FAMILIES[entry.kind].rpartition(".")[2] == file.parent.name
    assert "register(" in file.read_text() and entry.line <= len(file.read_text().splitlines())
    assert entry.summary and not entry.summary.endswith(",")
    assert all(record == record.strip() and record for record in source.records)


@pytest.mark.parametrize("entry", EVERY)
def test_every_name_and_alias_leads_to_the_entry(entry):
    for name in (entry.name, *entry.aliases):
        assert catalog.lookup(entry.kind, name) is entry and catalog.find(entry.kind, name) is entry.thing


def test_entries_are_in_order_and_complete():
    order = [(e.kind, e.name) for e in catalog.entries()]
    assert order == sorted(order) and {kind for kind, _ in order} == set(catalog.FAMILIES)
    assert [e.name for e in catalog.entries("rounding")] == sorted(e.name for e in catalog.entries("rounding"))


def test_registering_as_a_call_and_as_a_decorator(kept_catalogue):
    thing = register("rounding", "made_up", SOURCE, aliases=("mu",))(object())

    @register("scaling", "made_up", SOURCE)
    class MadeUp:
        """A rule that is made up."""

    assert catalog.find("rounding", "mu") is thing and catalog.find("scaling", "made_up") is MadeUp
    entry = catalog.lookup("scaling", "made_up")
    assert entry.summary == "A rule that is made up." and Path(entry.file) == Path(__file__) and entry.source is SOURCE
    catalog.unregister("rounding", "made_up")
    assert catalog.lookup("rounding", "mu") is None and "made_up" not in catalog.names("rounding")


@pytest.mark.parametrize("name, aliases", [("up", ()), ("new", ("rne",)), ("rtz", ())])
def test_a_taken_name_or_alias_collides_and_leaves_nothing(name, aliases, kept_catalogue):
    before = catalog.names("rounding")
    with pytest.raises(NameCollision, match=r"rounding '\w+' is already registered at .*ieee754.py:\d+; choose another name"):
        register("rounding", name, SOURCE, aliases=aliases)(object())
    assert catalog.names("rounding") == before


def test_the_same_name_may_serve_two_kinds():
    assert catalog.find("format", "int4") is not catalog.find("quantizer", "int4")


@pytest.mark.parametrize(
    "kind, name, message",
    [
        ("quantizer", "nvfp5", "no quantizer is called 'nvfp5'; did you mean 'nvfp4'?"),
        ("format", "zzzzzz", "no format is called 'zzzzzz'; `lowbit list` prints every name"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known(kind, name, message):
    with pytest.raises(UnknownName) as error:
        catalog.find(kind, name)
    assert str(error.value) == message


def test_an_unknown_kind():
    with pytest.raises(UnknownName, match="there is no kind 'colour'; kinds are format, "):
        catalog.load("colour")


def test_a_plugin_file(tmp_path, kept_catalogue):
    file = tmp_path / "mine.py"
    file.write_text(
        "from lowbit.catalog import Source, register\nfrom lowbit.formats.table import TableFormat\n"
        "register('format', 'mine', Source('t', 'a', 2024, 'here'))(TableFormat('mine', (-1.0, 0.0, 3.0)))\n"
    )
    catalog.load_file(file)
    assert catalog.find("format", "mine").max == 3.0 and catalog.lookup("format", "mine").file == str(file)
    with pytest.raises(UnknownName, match=r"there is no plugin file '.*nothing.py'; give the path of a Python file"):
        catalog.load_file(tmp_path / "nothing.py")


def test_other_packages_announce_themselves(monkeypatch, kept_catalogue):
    loaded = []

    class Point:
        def load(self):
            loaded.append(1)

    monkeypatch.setattr(catalog.importlib.metadata, "entry_points", lambda group: [Point()] if group == "lowbit.methods" else [])
    monkeypatch.setattr(catalog, "_loaded", catalog._loaded - {"entry points"})
    catalog.load("rounding")
    catalog.load("format")
    assert loaded == [1]
