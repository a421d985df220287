"""The commands that read the catalogue: list, where, cite, show, doctor, docs, and the frame that runs them."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from lowbit import catalog
from lowbit.catalog import Source
from lowbit.cli import cite, docs, doctor, main, show
from lowbit.errors import ShapeError
from lowbit.quantizers.spec import format_named, quantizer

ROOT = Path(__file__).parent.parent.parent
Command = Callable[..., "tuple[int, str, str]"]

PLUGIN = """
from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat
register("format", "five", Source("Five numbers", "Nobody", 2026, "a test"), aliases=("fife",))(TableFormat("five", (-2, -1, 0, 1, 2)))
"""

# ---- the frame


def test_every_file_of_the_folder_is_a_command() -> None:
    files = {f.stem.replace("_", "-") for f in Path(main.__file__).parent.glob("*.py")} - {"main", "--init--"}
    assert set(main.commands()) == files
    assert {"list", "where", "cite", "show", "doctor", "docs"} <= files


def test_a_command_file_that_cannot_be_imported_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "absent.py").touch()
    monkeypatch.setattr(main, "FOLDER", tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"lowbit\.cli\.absent"):
        main.commands()


def test_a_command_file_without_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "idle.py").touch()
    monkeypatch.setattr(main, "FOLDER", tmp_path)
    monkeypatch.setitem(sys.modules, "lowbit.cli.idle", types.ModuleType("lowbit.cli.idle"))
    with pytest.raises(TypeError, match=r"idle\.py has no function run"):
        main.commands()


def test_version(command: Command) -> None:
    code, out, _ = command("--version")
    assert code == 0
    assert out.startswith("lowbit ")
    assert torch.__version__ in out


@pytest.mark.parametrize("arguments", [["nonsense"], ["list", "--nonsense"], ["show"], ["where", "a", "b"]])
def test_wrong_usage_exits_with_2(command: Command, arguments: list[str]) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: lowbit" in err


def test_an_error_of_the_input_is_one_line_and_2(command: Command) -> None:
    assert command("where", "nvpf4") == (2, "", "lowbit: nothing is called 'nvpf4'; did you mean 'nvfp4'?\n")


def test_an_interrupt_is_one_line_and_130(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "entries", interrupted)
    assert command("list") == (130, "", "lowbit: interrupted\n")


def test_an_interrupt_says_what_was_noted_on_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        stop = KeyboardInterrupt()
        stop.add_note("finished units stay")
        raise stop

    monkeypatch.setattr(catalog, "entries", interrupted)
    assert command("list") == (130, "", "lowbit: interrupted; finished units stay\n")


def test_an_interrupt_while_commands_are_imported(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "application", interrupted)
    assert command("list") == (130, "", "lowbit: interrupted\n")


@pytest.mark.parametrize("arguments", [["list", "--json"], ["where", "nvfp4"]], ids=["much", "little"])
def test_a_reader_that_leaves_ends_it_quietly(arguments: list[str]) -> None:
    """Much is written while the command runs, little when it is over and the buffer is emptied."""
    program = [sys.executable, "-c", "from lowbit.cli.main import run; run()", *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"} | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.usefixtures("kept_catalogue")
def test_a_plugin_names_a_format(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "five.py"
    file.write_text(PLUGIN)
    code, out, _ = command("--plugin", str(file), "list", "format", "--json")
    assert code == 0
    assert [e["file"] for e in json.loads(out) if e["name"] == "five"] == [str(file)]
    code, out, _ = command("show", "five g2", "--shape", "2x4", "--json")
    assert code == 0
    assert json.loads(out)["quantizer"]["levels"] == {"codes": 3, "scale.codes": 8}
    assert "five" not in docs.methods()


def test_a_missing_plugin_is_named(command: Command) -> None:
    code, _, err = command("--plugin", "no/such.py", "list")
    assert code == 2
    assert "'no/such.py'" in err
    assert len(err.splitlines()) == 1


# ---- list, where, cite


def test_list_prints_every_entry_as_json(command: Command) -> None:
    entries = json.loads(command("list", "--json")[1])
    assert {(e["kind"], e["name"]) for e in entries} == {(e.kind, e.name) for e in catalog.entries()}
    for entry in entries:
        assert set(entry) == {"kind", "name", "aliases", "source", "summary", "file", "line"}
        assert set(entry["source"]) == {"title", "authors", "year", "where", "parts", "departs", "records"}
        assert entry["source"]["title"]
        lines = (Path(catalog.__file__).parent / entry["file"]).read_text().splitlines()
        assert 1 <= entry["line"] <= len(lines)


def test_list_of_a_kind(command: Command) -> None:
    code, out, _ = command("list", "rounding")
    names = {line.split()[1] for line in out.splitlines()[1:-1]}
    assert code == 0
    assert names == {e.name for e in catalog.entries("rounding")}
    assert out.splitlines()[-1].startswith(f"{len(names)} entries")
    assert command("list", "formats")[0] == 2


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("float8_e4m3fn", {"format"}),
        ("e4m3fn", {"format"}),
        ("int4", {"format", "quantizer"}),
        ("afpq", {"scaling"}),
        ("e3m5f", {"format family"}),
    ],
)
def test_where_finds_names_aliases_records_and_members_of_families(command: Command, name: str, kinds: set[str]) -> None:
    code, out, _ = command("where", name, "--json")
    assert code == 0
    found = json.loads(out)
    assert kinds <= {e["kind"] for e in found}
    if name != "e3m5f":
        assert all(name in (e["name"], *e["aliases"], *e["source"]["records"]) for e in found)


def test_where_names_the_line(command: Command) -> None:
    out = command("where", "nvfp4")[1]
    place = re.search(r"^quantizer nvfp4  (.*):(\d+)$", out, re.MULTILINE)
    assert place is not None
    assert 'register("quantizer", "nvfp4"' in Path(place[1]).read_text().splitlines()[int(place[2]) - 1]
    assert "arXiv:2509.25149" in out


def test_cite_arxiv(command: Command) -> None:
    out = command("cite", "absmean")[1]
    assert out.startswith("% scaling absmean")
    assert "@misc{ma2024era,\n" in out
    assert "  author = {Ma and others},\n" in out
    assert "  eprint = {2402.17764},\n  archivePrefix = {arXiv},\n" in out


def test_cite_prints_a_publication_once_and_balances_braces() -> None:
    text = cite.bibtex(catalog.entries())
    keys = re.findall(r"^@misc\{(.*),$", text, re.MULTILINE)
    assert len(keys) == len(set(keys)) == len({(e.source.title, e.source.year) for e in catalog.entries()})
    assert all(re.fullmatch(r"[a-z]+\d{4}[a-z0-9]*", key) for key in keys)
    assert text.count("{") == text.count("}")


def test_cite_gives_two_publications_two_keys() -> None:
    sources = [Source("Quantization of weights", "Doe", 2020, "A"), Source("Quantization of inputs", "Doe", 2020, "B")] * 2
    text = cite.bibtex(catalog.Entry("format", f"f{i}", None, s, (), "f.py", 1) for i, s in enumerate(sources))
    assert re.findall(r"^@misc\{(.*),$", text, re.MULTILINE) == ["doe2020quantization", "doe2020quantizationb"]
    assert text.startswith("% format f0\n% format f2\n@misc")


def test_cite_of_other_places() -> None:
    source = Source("R&D at 50%", "Open Compute Project, van Baalen", 2023, "OCP MX v1.0")
    text = cite.entry_text(source, "x")
    assert r"title = {{R\&D at 50\%}}" in text
    assert "author = {{Open Compute Project} and van Baalen}" in text
    assert "howpublished = {OCP MX v1.0}" in text
    assert "url = {https://a.org/b_c}" in cite.entry_text(Source("T", "A", 1, "https://a.org/b_c"), "x")


# ---- show


@pytest.mark.parametrize(
    "name",
    "float8_e4m3fn float8_e5m2 float8_e4m3 float8_e3m4 float8_e4m3fnuz float8_e5m2fnuz float8_e4m3b11fnuz float6_e3m2fn float6_e2m3fn "
    "float4_e2m1fn float8_e8m0fnu bfloat16".split(),
)
def test_facts_of_floats_agree_with_ml_dtypes(name: str) -> None:
    kind = getattr(ml_dtypes, name)
    facts, info = show.facts(format_named(name)), ml_dtypes.finfo(kind)
    bits = facts["bits"]
    with np.errstate(invalid="ignore"):  # bfloat16 has signalling NaN
        codes = np.arange(2**bits, dtype=np.uint8 if bits <= 8 else np.uint16).view(kind).astype(np.float64)
    assert facts["max"] == float(info.max)
    assert facts["min_positive"] == codes[codes > 0].min()
    assert facts["nans"] == np.isnan(codes).sum()
    assert facts["infinities"] == np.isinf(codes).sum()
    assert facts["zeros"] == (codes == 0).sum()
    positive = np.unique(codes[(codes > 0) & np.isfinite(codes)])
    assert facts["largest_relative_step"] == (np.diff(positive) / positive[:-1]).max()
    assert facts["information_bits"] == bits


def test_facts_of_a_narrow_integer() -> None:
    facts = show.facts(format_named("int4_narrow"))
    assert (facts["levels"], facts["reserved"], facts["min"], facts["max"]) == (15, [8], -7, 7)
    assert facts["information_bits"] == pytest.approx(math.log2(15))


def test_every_registered_format_can_be_shown() -> None:
    for entry in catalog.entries("format"):
        text = show.format_text(entry.thing)
        assert f"format {entry.thing.name}\n" in text
        assert len(show.picture(entry.thing).splitlines()) in (3, 6)
        json.dumps(show.finite(show.facts(entry.thing)), allow_nan=False)


SPECS = ["e2m1", "int4 g64", "int4 g64 asym", "e2m1 g32 sign_split", "int4 flat64", "nf4", "fp8_tile", "int3 tensor mse", "nvfp4 g32"]


@pytest.mark.parametrize("spec", sorted({*SPECS, *(e.name for e in catalog.entries("quantizer"))}))
def test_the_levels_add_up_to_what_is_stored(spec: str) -> None:
    value = quantizer(spec)
    shape = (256, 512)
    costs = show.levels(value, shape)
    assert sum(costs.values()) == value.nbytes(shape) == value.quantize(torch.randn(shape)).nbytes
    assert f"{sum(costs.values()):,} bytes" in show.spec_text(value, shape, None)


def test_show_of_a_name_that_is_both(command: Command) -> None:
    code, out, _ = command("show", "int4", "--shape", "3x32")
    assert code == 0
    assert re.search(r"tensor of 3 x 32 takes\n    codes +48 bytes +4\.0000 .*\n    scale\.codes +6 bytes +0\.5000 ", out)
    assert out.startswith("format int4\n")
    assert "\nquantizer int4\n" in out


def test_show_draws_precision_and_stands_a_format_beside_the_others(command: Command) -> None:
    out = command("show", "e2m1").out
    assert "significant bits by magnitude" in out
    rows = re.findall(r"^([> ]) (\S+) +4\.00((?: +[\d.e-]+){6})$", out, re.MULTILINE)
    assert [name for mark, name, _ in rows if mark == ">"] == ["float4_e2m1fn"]
    assert {"int4", "nf4_element", "pot4"} <= {name for _, name, _ in rows}
    first = [float(cells.split()[0]) for _, _, cells in rows]
    assert first == sorted(first)


def test_show_stands_a_quantizer_beside_formats_and_quantizers(command: Command) -> None:
    out = command("show", "nvfp4").out
    assert re.search(r"^> nvfp4 +4\.50 +its own scales +0\.0090\d ", out, re.MULTILINE)
    assert re.search(r"^  mxfp4 +4\.25 +its own scales +0\.013\d ", out, re.MULTILINE)
    assert "absmax, g16, float32" in out


def test_show_of_what_is_no_table_says_that_errors_are_not_compared(command: Command) -> None:
    assert "which this is not" in command("show", "posit32_2").out


def test_show_json_holds_both_halves(command: Command) -> None:
    found = json.loads(command("show", "nvfp4", "--json", "--shape", "16x64")[1])
    assert found["format"] is None
    assert found["quantizer"]["levels"] == {"codes": 512, "scale.codes": 64, "scale.scale": 4}
    assert found["quantizer"]["bits_per_element"] == 8 * 580 / 1024
    found = json.loads(command("show", "float8_e4m3fn", "--json")[1])
    assert found["quantizer"] is None
    assert [r["name"] for r in found["compared"] if r["own"]] == ["float8_e4m3fn"]
    assert found["format"]["values"][0x7F] == "NaN"
    assert found["format"]["values"][0x7E] == 448
    assert found["format"]["entry"]["aliases"] == ["e4m3fn"]


@pytest.mark.parametrize("shape", ["", "4x", "0x4", "ax4", "-4"])
def test_a_wrong_shape_is_named(shape: str) -> None:
    with pytest.raises(ShapeError, match="write 4096x4096"):
        show.shape_of(shape)


# ---- doctor

CPUINFO = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 fma avx512f avx512_vnni amx_int8\n\nprocessor\t: 1\nmodel name\t: B\n"


def test_doctor_reads_cpuinfo() -> None:
    found = doctor.cpu(CPUINFO)
    assert found["model"] == "A CPU"
    assert found["instruction_sets"] == ["AVX2", "FMA", "AVX-512", "AVX-512 VNNI", "AMX INT8"]
    assert found["instruction_sets_known"]
    assert not doctor.cpu("")["instruction_sets_known"]


def test_doctor_says_what_is_slow() -> None:
    facts = {"extension": True, "gpus": [{"name": "G"}], "optional": {"triton": "3"}, "torch_threads": 2}
    fast = {"instruction_sets": ["AVX2", "AVX-512 BF16", "AVX-512 VNNI"], "instruction_sets_known": True, "machine": "x86_64"}
    assert doctor.slow(facts | {"cpu": fast | {"cores_allowed": 2}}) == []
    assert "OMP_NUM_THREADS=1" in doctor.slow(facts | {"cpu": fast | {"cores_allowed": 1}})[0]
    bare = facts | {"extension": False, "gpus": [], "cpu": fast | {"instruction_sets": [], "cores_allowed": 2}}
    reasons = " ".join(doctor.slow(bare))
    assert all(word in reasons for word in ("extension", "CUDA", "AVX2", "VNNI"))


def test_doctor(command: Command) -> None:
    code, out, _ = command("doctor", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert facts["memory_gib"] is None or facts["memory_gib"] > 0
    assert facts["slow"] == doctor.slow(facts)
    text = command("doctor")[1]
    assert all(f"missing    {name}: {doctor.OPTIONAL[name]}" in text for name, version in facts["optional"].items() if version is None)


# ---- docs


@pytest.mark.parametrize("name", docs.PAGES)
def test_the_generated_pages_are_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == docs.PAGES[name](), f"docs/{name} is stale; run `make docs`"


def test_docs_writes_and_checks(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "PAGES", {"a.md": lambda: "first", "cli.md": docs.commands})
    assert command("docs", "--folder", str(tmp_path), "--check")[:2] == (1, "stale: a.md, cli.md\n")
    assert list(tmp_path.iterdir()) == []
    assert command("docs", "--folder", str(tmp_path))[:2] == (0, "written: a.md, cli.md\n")
    assert command("docs", "--folder", str(tmp_path), "--check")[:2] == (0, "every page is up to date\n")
    (tmp_path / "a.md").write_text("changed")
    assert command("docs", "--folder", str(tmp_path), "--check")[:2] == (1, "stale: a.md\n")
    assert command("docs", "--folder", str(tmp_path / "absent"))[0] == 2


def test_the_page_of_commands_has_every_command_whatever_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    page = docs.commands()
    assert re.findall(r"^## lowbit (\S+)$", page, re.MULTILINE) == sorted(main.commands())
    monkeypatch.setenv("COLUMNS", "60")
    assert docs.commands() == page


def test_cells_of_tables_escape_bars() -> None:
    assert docs.table(["a"], [["x|y"]]) == "| a |\n| --- |\n| x\\|y |\n"
