"""Golden vectors of number formats and quantizers, read with numpy alone. See README.md beside this file."""

import json
from pathlib import Path

import numpy as np


def load(name):
    """What a file says about itself, and its arrays: load("formats/float8_e4m3fn"), load("quantizers/mxfp4")."""
    with np.load(Path(__file__).parent / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(arrays.pop("about").tobytes()), arrays


def runs(name, rounding="nearest_even", overflow="saturate", table=0):
    """The first float32 bit pattern of every run of patterns with one code, and the codes."""
    about, arrays = load(f"formats/{name}")
    part = slice(*about["modes"][f"{rounding} {overflow} {table}"])
    return np.cumsum(arrays["pattern_steps"][part], dtype=np.uint32), np.cumsum(arrays["code_steps"][part], dtype=np.uint16)


def encode(name, x, *mode):
    """The codes of float32 numbers."""
    first, codes = runs(name, *mode)
    return codes[np.searchsorted(first, np.asarray(x, dtype=np.float32).view(np.uint32), side="right") - 1]


def decode(name, codes, table=0):
    """The float32 numbers of codes."""
    return load(f"formats/{name}")[1]["values"][table].view(np.float32)[codes]
