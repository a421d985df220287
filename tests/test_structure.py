"""The architecture as tests: floors, names, imports, and what may not appear anywhere. Every rule is tried on a planted fault."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "lowbit"

#: file or folder of the package -> its floor. Imports go down, or stay inside the own folder.
FLOORS = {
    name: floor
    for floor, names in enumerate(
        (
            "errors",
            "catalog progress sizes threads",
            "blocks method packing philox rounding",
            "formats radix statistics",
            "kernels",
            "scaling",
            "quantizers",
            "solvers transforms bit_allocation optimizers gradients kv_cache emulation",
            "nn",
            "models data builtin",
            "checkpoint",
            "recipes plan",
            "evaluation interchange",
            "claims testing",
            "cli",
        )
    )
    for name in names.split()
}

VAGUE = {"base", "core", "util", "utils", "helper", "helpers", "common", "misc", "types", "manager", "managers", "functional", "api"}

#: initial files that hold more than a docstring, and why
SPEAKING_INITS = {
    "__init__.py": "the public names",
    "nn/__init__.py": "lowbit.nn.Linear reads as torch.nn.Linear does; re-exports only",
}

#: test files that mirror no source file, and why
UNMIRRORED = {
    "test_structure.py": "about the whole tree",
    "test_readme.py": "about README.md and the other pages",
    "test_examples.py": "about examples/",
    "test_contracts.py": "contracts run on every member of a family",
    "test_exhaustive.py": "every backend on every format, against the published vectors",
    "test_public_api.py": "about the names in lowbit itself",
    "recipes/test_architectures.py": "every kind of model through the recipes as a whole",
    "quantizers/test_hard_cases.py": "cases of the literature that need several quantizers and parts at once",
    "cli/test_catalogue_commands.py": "list, where, cite, show, doctor and docs read the same catalogue and share fixtures",
}

LONGEST = 450

Rule = Callable[[Path], Iterator[str]]


def sources(package: Path) -> Iterator[tuple[str, ast.Module]]:
    """Every Python file of a package: its path inside, and its tree."""
    for file in sorted(package.rglob("*.py")):
        yield file.relative_to(package).as_posix(), ast.parse(file.read_text(encoding="utf-8"), str(file))


def part(inside: str) -> str:
    """The file or folder that has a floor: ``formats`` for ``formats/table.py``, ``errors`` for ``errors.py``."""
    return inside.split("/")[0].removesuffix(".py")


def own_imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and target of every own import: ``formats.table`` for ``from lowbit.formats.table import X``; ``.`` for a relative one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "."
            continue
        elif isinstance(node, ast.ImportFrom):
            names = [f"lowbit.{alias.name}" for alias in node.names] if node.module == "lowbit" else [node.module or ""]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "lowbit":
                yield node.lineno, name.removeprefix("lowbit").removeprefix(".") or "__init__"


def floors(package: Path) -> Iterator[str]:
    for inside, tree in sources(package):
        here = part(inside)
        if here == "__init__":
            continue
        if here not in FLOORS:
            yield f"{inside}: {here} has no floor; put it into FLOORS"
            continue
        for line, target in own_imports(tree):
            there = part(target.replace(".", "/"))
            if target == ".":
                yield f"{inside}:{line}: a relative import; write it in full"
            elif there not in FLOORS:
                yield f"{inside}:{line}: imports lowbit.{target}, and {there} has no floor"
            elif there != here and FLOORS[there] == FLOORS[here]:
                yield f"{inside}:{line}: imports lowbit.{target}, a sibling on the same floor"
            elif FLOORS[there] > FLOORS[here]:
                yield f"{inside}:{line}: imports lowbit.{target}, which is above it"


def deferred_imports(package: Path) -> Iterator[str]:
    for inside, tree in sources(package):
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                for line, target in own_imports(function):
                    yield f"{inside}:{line}: imports lowbit.{target} inside a function"


def vague_names(package: Path) -> Iterator[str]:
    for file in sorted(package.rglob("*.py")):
        for word in (file.stem, *file.relative_to(package).parts[:-1]):
            if word.strip("_") in VAGUE:
                yield f"{file.relative_to(package)}: {word} says nothing; name the thing"


def silent_inits(package: Path) -> Iterator[str]:
    for inside, tree in sources(package):
        if not inside.endswith("__init__.py"):
            continue
        if ast.get_docstring(tree) is None:
            yield f"{inside}: no docstring"
        rest = [n for n in tree.body[1:] if not isinstance(n, ast.Import | ast.ImportFrom) and not _is_all(n)]
        if rest or (len(tree.body) > 1 and inside not in SPEAKING_INITS):
            yield f"{inside}: holds more than one docstring"


def _is_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["__all__"]


FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "np.load", "numpy.load", "os.system"}


def unsafe_calls(package: Path) -> Iterator[str]:
    for inside, tree in sources(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                yield from (f"{inside}:{node.lineno}: imports {n}" for n in names if n.split(".")[0] in FORBIDDEN_MODULES)
                if isinstance(node, ast.ImportFrom) and any(f"{node.module}.{a.name}" in FORBIDDEN_CALLS for a in node.names):
                    yield f"{inside}:{node.lineno}: imports {node.module}.load"
            elif isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in FORBIDDEN_CALLS:
                yield f"{inside}:{node.lineno}: uses {ast.unparse(node)}"


def swallowed_errors(package: Path) -> Iterator[str]:
    for inside, tree in sources(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = "" if node.type is None else ast.unparse(node.type)
                broad = any(word in ("Exception", "BaseException") for word in re.findall(r"\w+", caught))
                nothing = all(isinstance(n, ast.Pass | ast.Continue) or _is_literal(n) for n in node.body)
                if node.type is None:
                    yield f"{inside}:{node.lineno}: a bare except"
                elif broad and nothing:
                    yield f"{inside}:{node.lineno}: except {caught} that does nothing"
            elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress":
                broad_names = {ast.unparse(a) for a in node.args} & {"Exception", "BaseException", "ImportError"}
                yield from (f"{inside}:{node.lineno}: suppresses {name}" for name in sorted(broad_names))


def _is_literal(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".json", ".cc", ".h", ".sh", ""}


def tracked(root: Path) -> Iterator[Path]:
    """The text files that belong to the project: those that git knows or would add, or all where there is no git."""
    if (root / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, check=True)
        files = [root / name for name in listed.stdout.decode().split("\0") if name]
    else:
        files = [f for f in root.rglob("*") if not any(p.startswith(".") and p != ".ci" for p in f.relative_to(root).parts)]
    for file in sorted(files):
        text = file.suffix in SUFFIXES or file.name == "constraints.txt"
        other = file.is_relative_to(root / "src" / "lowbit" / "builtin")  # other people's source code, kept as text
        if file.is_file() and text and not other and file.stat().st_size < 1 << 20:
            yield file


def long_files(root: Path) -> Iterator[str]:
    for file in tracked(root):
        if file.suffix == ".py":
            lines = len(file.read_text(encoding="utf-8").splitlines())
            if lines > LONGEST:
                yield f"{file.relative_to(root)}: {lines} lines, {LONGEST} at most"


MARKS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
MACHINE = re.compile(r"(?<![\w.~$}])/(?:work|opt|root|home|Users)/\w")


def unfinished_marks(root: Path) -> Iterator[str]:
    for file in tracked(root):
        for i, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if MARKS.search(line):
                yield f"{file.relative_to(root)}:{i}: {line.strip()}"


def machine_paths(root: Path) -> Iterator[str]:
    for file in tracked(root):
        for i, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if MACHINE.search(line):
                yield f"{file.relative_to(root)}:{i}: {line.strip()}"


def mirrored_tests(root: Path) -> Iterator[str]:
    for file in sorted((root / "tests").rglob("test_*.py")):
        inside = file.relative_to(root / "tests").as_posix()
        source = root / "src" / "lowbit" / inside.replace("test_", "", 1)
        if inside not in UNMIRRORED and not source.exists():
            yield f"tests/{inside}: there is no {source.relative_to(root)}; name it after what it tests"


#: rule -> a file of a small tree that breaks it, its text, and a word of the complaint
IN_PACKAGE: list[tuple[Rule, str, str, str]] = [
    (floors, "rounding/a.py", "from lowbit.formats.table import TableFormat", "above it"),
    (floors, "catalog.py", "import lowbit.quantizers.spec", "above it"),
    (floors, "errors.py", "from lowbit import catalog", "above it"),
    (floors, "models/a.py", "from lowbit.data.text import load", "sibling"),
    (floors, "models/a.py", "from .llama import Llama", "relative"),
    (floors, "models/a.py", "import lowbit", "no floor"),
    (floors, "novel/a.py", "", "no floor"),
    (deferred_imports, "cli/a.py", "def f():\n    from lowbit.errors import ShapeError", "inside a function"),
    (deferred_imports, "cli/a.py", "class A:\n    async def f(self):\n        import lowbit.errors", "inside a function"),
    (vague_names, "formats/utils.py", "", "says nothing"),
    (vague_names, "common/table.py", "", "says nothing"),
    (silent_inits, "formats/__init__.py", '"""Formats."""\nfrom lowbit.formats.table import TableFormat', "more than"),
    (silent_inits, "__init__.py", '"""Public."""\nx = 1', "more than"),
    (silent_inits, "formats/__init__.py", "", "no docstring"),
    (unsafe_calls, "data/a.py", "import torch\nx = torch.load('f')", "torch.load"),
    (unsafe_calls, "data/a.py", "from torch import load", "torch.load"),
    (unsafe_calls, "data/a.py", "from pickle import loads", "pickle"),
    (unsafe_calls, "data/a.py", "f = eval", "eval"),
    (swallowed_errors, "data/a.py", "try:\n    pass\nexcept:\n    raise", "bare"),
    (swallowed_errors, "data/a.py", "try:\n    pass\nexcept (KeyError, Exception):\n    pass", "does nothing"),
    (swallowed_errors, "data/a.py", "import contextlib\nwith contextlib.suppress(ImportError):\n    pass", "suppresses"),
]
IN_TREE: list[tuple[Rule, str, str, str]] = [
    (long_files, "src/lowbit/a.py", "x = 1\n" * (LONGEST + 1), "451 lines"),
    (unfinished_marks, "docs/a.md", "TO" + "DO: write this", "write this"),
    (machine_paths, "Makefile", "run:\n\t/op" + "t/venv/bin/python x.py", "x.py"),
    (mirrored_tests, "tests/formats/test_tables.py", "", "no src/lowbit/formats/tables.py"),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, *_ in IN_PACKAGE), ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule: Rule) -> None:
    assert list(rule(PACKAGE)) == []


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, *_ in IN_TREE), ids=lambda rule: rule.__name__)
def test_the_repository_keeps(rule: Rule) -> None:
    assert list(rule(ROOT)) == []


@pytest.mark.parametrize(("rule", "inside", "text", "word"), IN_PACKAGE + IN_TREE)
def test_a_planted_fault_is_found(rule: Rule, inside: str, text: str, word: str, tmp_path: Path) -> None:
    file = tmp_path / inside
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    complaints = list(rule(tmp_path))
    assert len(complaints) == 1
    assert word in complaints[0]


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "llama.py").write_text(
        "import torch\nfrom lowbit import catalog\nfrom lowbit.models.model import X\nmodel = torch.nn.Linear(1, 1).eval()\n"
        "try:\n    pass\nexcept KeyError:\n    pass\n"
    )
    assert [c for rule in dict.fromkeys(r for r, *_ in IN_PACKAGE) for c in rule(tmp_path)] == []


def test_the_tables_of_exceptions_name_what_exists() -> None:
    assert [name for name in SPEAKING_INITS if not (PACKAGE / name).exists()] == []
    assert all(UNMIRRORED.values())
    assert all(SPEAKING_INITS.values())


def test_commands_start_without_transformers() -> None:
    """Importing every command must not cost the seconds that transformers takes."""
    script = "import sys; from lowbit.cli.main import application; application(); print('transformers' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
