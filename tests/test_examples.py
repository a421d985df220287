"""The skeleton of a new method is copied by newcomers, so its own tests run with ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_skeleton_passes_its_tests() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"PYTHONPATH": str(ROOT / "src")}
    program = [sys.executable, "-m", "pytest", *"-q -p no:cacheprovider -p no:xdist --import-mode=importlib examples/skeleton".split()]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


def test_the_skeleton_is_short() -> None:
    """A format in 10 lines, a scaling in 15: what the pages promise."""
    for name, promised in (("my_format.py", 10), ("my_scaling.py", 15)):
        lines = (ROOT / "examples" / "skeleton" / name).read_text().splitlines()
        code = [x for x in lines if x.strip() and not x.startswith(("import", "from", '"""'))]
        assert len(code) <= promised, f"{name}: {len(code)} lines of code"
