"""Plant faults on purpose and see that the tests catch each of them.

    python scripts/mutations.py [--only WORD] [--list]

Every mutation is a replacement that must hit exactly once, made in a temporary copy of ``src`` and ``tests``. The test files
that should notice are run there until the first failure. Prints one line a mutation: what was planted, where, and the test that
caught it. Exits with 1 if one survives, or if a test fails without any mutation. Faults in C++ need cmake, ninja and a compiler, and some
20 seconds each; without them they are left out, which is said.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mutations_of_changes import FAULTS as CHANGES
from mutations_of_kernels import FAULTS, Builder, can_build

ROOT = Path(__file__).resolve().parent.parent

#: runs pytest on the package in the folder named first; an editable installation would put its own finder before every path
HERE_ONLY = """
import sys, pytest
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__]
import lowbit
if not lowbit.__file__.startswith(sys.argv[1]):
    sys.exit(f"the tests would run on {lowbit.__file__}, which holds no mutation")
sys.exit(pytest.main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Mutation:
    """A fault.

    Args:
        name: what goes wrong.
        file: inside src/lowbit, or in csrc.
        changes: (old, new) pairs; each old text occurs exactly once in the file.
        tests: inside tests/, the files or tests that should notice.
    """

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]


SAME_BITS = "kernels/cpu/test_fake_quantize.py::test_every_target_and_number_of_threads_has_the_bits_of_the_reference"

MUTATIONS = (
    Mutation(
        "ties away from zero instead of to even",
        "rounding/ieee754.py",
        (("    return (low + high) / 2, odd\n", "    return (low + high) / 2, low + high >= 0\n"),),
        ("formats/test_minifloat.py",),
    ),
    Mutation(
        "ties to even in the cut, away in the rule",
        "rounding/ieee754.py",
        (("    return (side > 0) | ((side == 0) & gap.odd)\n", "    return (side > 0) | ((side == 0) & (gap.y >= 0))\n"),),
        ("test_contracts.py::test_roundings",),
    ),
    Mutation(
        "a tie is looked for in float32",
        "rounding/ieee754.py",
        (
            (
                "    return gap.y.double() - (gap.low.double() / 2 + gap.high.double() / 2)\n",
                "    return (gap.y - gap.low) - (gap.high - gap.y)\n",
            ),
        ),
        ("rounding/test_ieee754.py",),
    ),
    Mutation(
        "wrong bias: that of fnuz everywhere",
        "formats/minifloat.py",
        (('bias = 2 ** (exponent - 1) - (0 if specials == "fnuz" else 1)', "bias = 2 ** (exponent - 1)"),),
        ("formats/test_minifloat.py",),
    ),
    Mutation(
        "wrong bias of e8m0",
        "formats/minifloat.py",
        (("2.0 ** (code - 127) for code in range(255)", "2.0 ** (code - 128) for code in range(255)"),),
        ("formats/test_minifloat.py",),
    ),
    Mutation(
        "subnormals are one binade too small",
        "formats/minifloat.py",
        (("else 2.0 ** (1 - bias) * M / steps)", "else 2.0 ** (0 - bias) * M / steps)"),),
        ("formats/test_minifloat.py",),
    ),
    Mutation(
        "the first NaN code, a signalling one",
        "formats/table.py",
        (("which[len(which) // 2] if which else None", "which[0] if which else None"),),
        ("formats/test_minifloat.py",),
    ),
    Mutation(
        "a negative number that rounds to zero loses its sign",
        "formats/table.py",
        (("signed = (result == line.zero) & torch.signbit(y)", "signed = (result == line.zero) & (y == 0) & torch.signbit(y)"),),
        ("formats/test_minifloat.py",),
    ),
    Mutation(
        "overflow keeps to the largest number under special",
        "formats/table.py",
        (('        if overflow == "special" and high is not None:\n', '        if overflow == "never" and high is not None:\n'),),
        ("formats/test_minifloat.py",),
    ),
    Mutation(
        "cut points are rounded to float32, not up",
        "formats/table.py",
        (("found = np.where(reached, near, np.nextafter(near, kind(np.inf)))", "found = near"),),
        ("formats/test_table.py",),
    ),
    Mutation(
        "values keep their float64 digits",
        "formats/table.py",
        ((".astype(np.float32).astype(np.float64).tolist()", ".tolist()"),),
        ("formats/test_table.py",),
    ),
    Mutation(
        "floor for even",
        "scaling/power_of_two.py",
        (('        elif self.rule == "even":\n', '        elif self.rule == "none":\n'),),
        ("scaling/test_power_of_two.py",),
    ),
    Mutation(
        "floor for ceil",
        "scaling/power_of_two.py",
        (('        if self.rule == "ceil":\n', '        if self.rule == "none":\n'),),
        ("scaling/test_power_of_two.py",),
    ),
    Mutation(
        "even drops the carry exactly on the boundary",
        "scaling/power_of_two.py",
        (("share >= 2.0 - 2.0 ** -(mantissa + 1)", "share > 2.0 - 2.0 ** -(mantissa + 1)"),),
        ("scaling/test_power_of_two.py",),
    ),
    Mutation(
        "the exponent of subnormals is one too large",
        "scaling/power_of_two.py",
        (("(lifted >> 23 & 0xFF) - 151", "(lifted >> 23 & 0xFF) - 150"),),
        ("scaling/test_power_of_two.py",),
    ),
    Mutation(
        "the maximum of a block of zeros may be -0",
        "scaling/scaling.py",
        (("-blocks.amin(-1)) + 0.0)", "-blocks.amin(-1)))"),),
        ("scaling/test_scaling.py",),
    ),
    Mutation(
        "a block with an Inf keeps an infinite scale",
        "scaling/scaling.py",
        (
            (
                "    return torch.where(torch.isfinite(scale), scale, torch.full_like(scale, torch.nan))\n",
                "    return scale\n",
            ),
        ),
        ("quantizers/test_hard_cases.py",),
    ),
    Mutation(
        "nibbles in the other order, in and out",
        "packing.py",
        (("column = rows[:, i]", "column = rows[:, per - 1 - i]"), ("out[:, i] = (value", "out[:, per - 1 - i] = (value")),
        ("test_packing.py",),
    ),
    Mutation(
        "packing drops the bits of a code that cross into the next byte",
        "packing.py",
        (("for i in range(byte * 8 // bits, min(", "for i in range(-(-byte * 8 // bits), min("),),
        ("test_packing.py",),
    ),
    Mutation(
        "unpacking drops the bits of a code in the next byte",
        "packing.py",
        (("(i * bits + bits - 1) // 8 + 1", "i * bits // 8 + 1"),),
        ("test_packing.py",),
    ),
    Mutation(
        "Philox drops the carry of the low product",
        "philox.py",
        (("middle = (low >> 16) + high", "middle = high"),),
        ("test_philox.py",),
    ),
    Mutation(
        "Philox with nine rounds",
        "philox.py",
        (("for _ in range(10):", "for _ in range(9):"),),
        ("test_philox.py",),
    ),
    Mutation(
        "noise begins at a multiple of four",
        "philox.py",
        (("return words[start % 4 : start % 4 + count]", "return words[:count]"),),
        ("test_philox.py",),
    ),
    Mutation(
        "stochastic rounding drops a bit of its noise",
        "rounding/stochastic.py",
        (("(noise >> 8)", "(noise >> 9)"),),
        ("rounding/test_stochastic.py",),
    ),
    Mutation(
        "blocks of a tile are read column first",
        "blocks.py",
        (
            (
                "permute(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))",
                "permute(*range(0, 2 * rank, 2), *reversed(range(1, 2 * rank, 2)))",
            ),
        ),
        ("test_blocks.py",),
    ),
    Mutation(
        "the worse candidate is kept",
        "quantizers/scheme.py",
        (("better = total < least", "better = total > least"),),
        ("quantizers/test_scheme.py",),
    ),
    Mutation(
        "the frozen outer scale is refitted",
        "quantizers/scheme.py",
        (("level = frozen if frozen is not None else quantizer.grid(", "level = quantizer.grid("),),
        ("quantizers/test_scheme.py",),
    ),
    Mutation(
        "an importance is forgotten where the extension chooses",
        "quantizers/scheme.py",
        (("spec.candidates and (importance is not None or outer is not None)", "spec.candidates and outer is not None"),),
        ("kernels/cpu/test_fake_quantize.py::test_an_importance_weighs_the_errors_of_candidates",),
    ),
    Mutation(
        "neighbours are added instead of halves",
        "scaling/scaling.py",
        (("x[..., :size].double() + x[..., size:].double()", "x[..., ::2].double() + x[..., 1::2].double()"),),
        ("scaling/test_scaling.py",),
    ),
    Mutation(
        "the scales of both signs are swapped",
        "scaling/sign_split.py",
        (
            ("        above = divided(blocks.amax", "        below = divided(blocks.amax"),
            ("        below = divided((-blocks.amin", "        above = divided((-blocks.amin"),
        ),
        ("scaling/test_sign_split.py",),
    ),
    Mutation(
        "the scale of the tensor's largest magnitude is taken for the largest scale of a range",
        "kernels/grid_spec.py",
        (('MONOTONE = ("absmax", "power_of_two")', 'MONOTONE = ("absmax", "power_of_two", "minmax")'),),
        (f"{SAME_BITS}[int4 g32 asym scale=(float8_e4m3fn tensor)]",),
    ),
    Mutation(
        "four over six is told to kernels as six alone",
        "quantizers/lowering.py",
        (("tops = [(0, rule.high), (0, rule.low)]", "tops = [(0, rule.high), (0, rule.high)]"),),
        (f"{SAME_BITS}[nvfp4_four_over_six]",),
    ),
    Mutation(
        "numbers below the smallest normal one are rounded, not flushed",
        "formats/minifloat.py",
        (("        cuts[zero] = values[zero + 1]\n", "        cuts[zero] = values[zero + 1] / 2\n"),),
        ("formats/test_minifloat.py",),
    ),
    Mutation(
        "a search sees the diagonal of the Gram matrix only",
        "solvers/llm_fp4.py",
        (("(error @ H.double()) * error", "(error * H.double().diagonal()) * error"),),
        ("solvers/test_llm_fp4.py",),
    ),
    Mutation(
        "the derivative of an exponent forgets the codes that change",
        "solvers/nupes.py",
        (("(r**a * r.log() / held - held.log() / a)", "(0.0 - held.log() / a)"),),
        ("solvers/test_nupes.py",),
    ),
    Mutation(
        "a block of extremes begins at zero",
        "kernels/cpu/call.py",
        (('"extremes": 8}', '"extremes": 3}'),),
        (f"{SAME_BITS}[uint4 g32 range]",),
    ),
    Mutation(
        "the zero point is added before rounding",
        "quantizers/grid.py",
        (("(round_to_integers(y, rounding, words) + zero)", "round_to_integers(y + zero, rounding, words)"),),
        ("quantizers/test_grid.py",),
    ),
    Mutation(
        "choosing codes adds the offset",
        "quantizers/grid.py",
        (("            y = y - offset\n", "            y = y + offset\n"),),
        ("quantizers/test_grid.py",),
    ),
)


MUTATIONS += tuple(Mutation(name, file, ((old, new),), tests) for name, file, old, new, tests in (*FAULTS, *CHANGES))


def copy_to(target: Path) -> None:
    """What the tests need, without caches."""
    for name in ("src", "tests", "conformance", "pyproject.toml", "csrc", "CMakeLists.txt"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(source, target / name)
    extension = importlib.util.find_spec("lowbit._cpu")
    if extension is not None and extension.origin is not None:
        shutil.copy(extension.origin, target / "src" / "lowbit")


def planted(mutation: Mutation, original: str) -> str:
    """A file with the fault in it.

    Raises:
        SystemExit: a text to be replaced does not occur exactly once.
    """
    for old, new in mutation.changes:
        if original.count(old) != 1:
            raise SystemExit(f"{mutation.name}: {mutation.file} holds the text to replace {original.count(old)} times, not once:\n{old}")
        original = original.replace(old, new)
    return original


def try_out(root: Path, mutation: Mutation, builder: Builder | None) -> str | None:
    """The test that catches a fault, or None; everything is as it was afterwards."""
    if builder is None or not mutation.file.startswith("csrc/"):
        path = root / "src" / "lowbit" / mutation.file
        original, build = path.read_text(encoding="utf-8"), None
    else:
        (path, original), build = builder.place(mutation.file), builder.build
    path.write_text(planted(mutation, original), encoding="utf-8")
    try:
        if build is not None:
            build()
        return first_failure(root, mutation.tests)
    finally:
        path.write_text(original, encoding="utf-8")
        if build is not None:
            build()


def first_failure(root: Path, tests: tuple[str, ...]) -> str | None:
    """The first test that fails there, or None; a file that cannot even be imported counts by its name."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root / "src")}
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)]
    command = [sys.executable, "-c", HERE_ONLY, str(root / "src" / "lowbit"), *options]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    match = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode != 1 and match is None:
        raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return match[1] if match else "a test that was not named"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="mutations whose name or file contains this")
    parser.add_argument("--list", action="store_true", help="print the mutations and stop")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if arguments.only in m.name or arguments.only in m.file]
    if arguments.list:
        print("\n".join(f"{m.file:<26} {m.name}" for m in chosen))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy_to(root)
        builder = None
        if native := [m for m in chosen if m.file.startswith("csrc/")]:
            reason, extension = can_build(), importlib.import_module("lowbit.kernels.op").extension("lowbit._cpu")
            if reason is None and extension is not None:
                builder = Builder(root, extension.target())
            else:
                print(f"{len(native)} faults in C++ are left out: {reason or 'lowbit._cpu was not built'}")
                chosen = [m for m in chosen if m not in native]
        needed = tuple(dict.fromkeys(t for m in chosen for t in m.tests))
        failing = first_failure(root, needed)
        if failing is not None:
            print(f"without any mutation {failing} fails; nothing can be said")
            return 1
        survived = 0
        print(f"{'planted':<62} {'in':<30} {'seconds':>7}  caught by")
        for mutation in chosen:
            start = time.monotonic()
            caught = try_out(root, mutation, builder)
            survived += caught is None
            seconds = time.monotonic() - start
            print(f"{mutation.name:<62} {mutation.file:<30} {seconds:>7.1f}  {caught or 'NOTHING: it survived'}", flush=True)
        print(f"{len(chosen) - survived} of {len(chosen)} mutations caught")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
