"""Faults of the linear kernels, and how an extension with one of them is built.

A fault in a header of ``csrc/kernels`` is planted in a copy that only the best target of this CPU includes, so that one file is compiled
again; everything else comes from the first build.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

#: what goes wrong, file, old text, new text, the tests that should notice. Files are inside src/lowbit, or in csrc
FAULTS = (
    (
        "codes that lie in two words lose their upper bits", "kernels/cpu/linear_layout.py",
        "            code = code | words[:, :, :, word + 1] << (32 - shift)\n", "            code = code | 0\n",
        ("kernels/cpu/test_linear_layout.py::test_codes_come_back",),
    ),
    (
        "integers without their zero point", "kernels/cpu/linear_layout.py",
        "    zero = max(0, -int(steps.min()))\n", "    zero = 0 * int(steps.min())\n",
        ("kernels/cpu/test_qlinear_int8.py::test_bits_of_the_reference",),
    ),
    (
        "exponents of scales off by one", "kernels/cpu/linear_layout.py",
        "    power = 2.0 ** (least - 1)\n", "    power = 2.0**least\n",
        ("kernels/cpu/test_linear_layout.py::test_scales_take_their_smallest_form",),
    ),
    (
        "every group of a convolution has the scales of the first", "kernels/cpu/linear_layout.py",
        "data=block.data[i * tiles : (i + 1) * tiles]", "data=block.data[:tiles]",
        ("kernels/cpu/test_linear_layout.py::test_parts_of_a_weight",),
    ),
    (
        "groups longer than sums of 32 bits hold are not refused", "kernels/reference/qlinear_int8.py",
        "MOST_COLUMNS = 1 << 16\n", "MOST_COLUMNS = 1 << 17\n",
        ("kernels/cpu/test_qlinear_int8.py",),
    ),
    (
        "convolutions forget their dilation", "nn/convolution.py",
        "stride)[..., ::dilation]\n", "stride)[..., :size]\n",
        ("nn/test_convolution.py",),
    ),
    (
        "experts stacked the other way round", "nn/experts.py",
        "bool(held.is_transposed)", "False",
        ("nn/test_experts.py",),
    ),
    (
        "a view forgets that the top bucket is wider", "quantizers/matryoshka.py",
        "sliced(upper, bits, master) + (1 << d - 1))", "sliced(upper, bits, master) + (1 << d - 1) & (1 << d) - 1)",
        ("quantizers/test_matryoshka.py",),
    ),
    (
        "a ragged block wider than its matrix", "quantizers/linear_lowering.py",
        "else min(columns, blocks.axes(shape)[1])", "else blocks.axes(shape)[1]",
        ("quantizers/test_linear_lowering.py",),
    ),
    (
        "gathered codes that lie in two words lose their upper bits", "csrc/gather.cc",
        "      if (bit % 32 + w.bits > 32) both |=", "      if (bit % 32 + w.bits > 64) both |=",
        ("kernels/cpu/test_gather.py",),
    ),
    (
        "gathered rows without their offsets", "csrc/gather.cc",
        "w.offset.data ? y + offset : y", "w.offset.data ? y + 0 * offset : y",
        ("kernels/cpu/test_gather.py",),
    ),
    (
        "the bias of a last tile that is not full is left out", "csrc/kernels/linear.h",
        "y[row + k] = bias ? all_rows[k] + bias[row + k] : all_rows[k]", "y[row + k] = all_rows[k]",
        ("kernels/cpu/test_qlinear.py::test_every_width_on_every_target",),
    ),
    (
        "inputs cut off instead of rounded", "csrc/kernels/linear_int8.h",
        "(int8_t)(int32_t)((x[k] / s + magic) - magic)", "(int8_t)(int32_t)(x[k] / s + 0 * magic)",
        ("kernels/cpu/test_qlinear_int8.py::test_bits_of_the_reference",),
    ),
    (
        "sums of two products in 16 bits", "csrc/kernels/linear_int8.h",
        "return (I)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, _mm512_set1_epi32(*b));",
        "return sum + (I)_mm512_madd_epi16(_mm512_maddubs_epi16((__m512i)a, _mm512_set1_epi32(*b)), _mm512_set1_epi16(1));",
        ("kernels/cpu/test_qlinear_int8.py::test_the_largest_sums_do_not_overflow",),
    ),
    (
        "places behind the last token are attended to", "csrc/kernels/decoder.h",
        "scores[p] = -INFINITE_FLOAT;", "scores[p] = 0.0f;",
        ("nn/test_decoder.py",),
    ),
    (
        "norms without their epsilon", "csrc/kernels/decoder.h",
        " / (float)n + eps)", " / (float)n + 0 * eps)",
        ("nn/test_decoder.py::test_heads_share_keys_in_every_ratio",),
    ),
    (
        "products of two tables share the sums of one", "csrc/decoder.cc",
        "(v.bits > 2 || std::equal(", "(v.bits > 0 || std::equal(",
        ("nn/test_decoder.py::test_products_of_different_tables_share_no_sums",),
    ),
    (
        "every token of a prompt has the first one's position", "csrc/decoder.cc",
        "position = c.length + r % length,", "position = c.length + 0 * (r % length),",
        ("nn/test_decoder.py",),
    ),
)  # fmt: skip


def can_build() -> str | None:
    """Why no extension can be built here."""
    missing = [name for name in ("cmake", "ninja") if shutil.which(name) is None]
    missing += [] if importlib.util.find_spec("nanobind") else ["nanobind (pip install nanobind)"]
    return f"{' and '.join(missing)} not found" if missing else None


class Builder:
    """Builds the extension of a copy of the sources into its package.

    Args:
        root: the copy, with csrc and CMakeLists.txt.
        target: the CPU target whose kernels get the faults of headers.
    """

    def __init__(self, root: Path, target: str):
        self.root = root
        self.caller = root / "csrc" / "targets" / f"{target}.cc"
        cmake = subprocess.run([sys.executable, "-m", "nanobind", "--cmake_dir"], capture_output=True, text=True, check=True).stdout.strip()
        options = [f"-Dnanobind_DIR={cmake}", f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
        if shutil.which("ccache"):
            options.append("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
        self._run("cmake", "-G", "Ninja", "-S", str(root), "-B", str(root / "build"), *options)
        self.build()

    def build(self) -> None:
        """The extension from what is there now."""
        self._run("ninja", "-C", str(self.root / "build"), "_cpu")
        for old in (self.root / "src" / "lowbit").glob("_cpu*"):
            old.unlink()
        for made in (self.root / "build").glob("_cpu*.so"):
            shutil.copy(made, self.root / "src" / "lowbit")

    def place(self, file: str) -> tuple[Path, str]:
        """Where a fault is planted, and what that file held: a header's copy, empty before, is included by one target only."""
        path = self.root / file
        if path.suffix != ".h":
            return path, path.read_text(encoding="utf-8")
        copy = path.with_name(f"planted_{path.name}")
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        text = self.caller.read_text(encoding="utf-8")
        self.caller.write_text(
            re.sub(rf"(\.\./kernels/)(planted_)?{re.escape(path.name)}", rf"\1planted_{path.name}", text), encoding="utf-8"
        )
        return copy, path.read_text(encoding="utf-8")

    def _run(self, *command: str) -> None:
        environment = {"CCACHE_BASEDIR": str(self.root), "CCACHE_NOHASHDIR": "1"} | os.environ  # copies elsewhere compile the same
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"{' '.join(command[:3])} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
