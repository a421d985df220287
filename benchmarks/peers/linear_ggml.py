"""The matrix product of ggml (llama.cpp) on its own quantized types: GGML_LIBRARIES names the folder of its shared libraries.

Everything runs on a thread of its own: ggml configures AMX tiles once a thread, oneDNN releases them, and the next product of ggml
on that thread would end the process.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peers.linear import Missing, Way, copies_of, relative

#: type and buffer; "CPU_REPACK" lays rows out side by side, "AMX" for tiles. What a machine has not is left out
TYPES = (("q4_0", "CPU"), ("q4_0", "CPU_REPACK"), ("q4_0", "AMX"), ("q4_K", "CPU_REPACK"), ("q8_0", "CPU"), ("q8_0", "CPU_REPACK"),
         ("q8_0", "AMX"), ("mxfp4", "CPU"), ("tq2_0", "CPU"))  # fmt: skip

#: returns pointers where nothing else is said
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "ggml_init": (c_void_p, "parameters"),
    "ggml_free": (None, c_void_p),
    "ggml_log_set": (None, c_void_p, c_void_p),
    "ggml_tensor_overhead": (c_size_t,),
    "ggml_graph_overhead_custom": (c_size_t, c_size_t, c_bool),
    "ggml_new_tensor_2d": (c_void_p, c_void_p, c_int, c_int64, c_int64),
    "ggml_mul_mat": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_new_graph_custom": (c_void_p, c_void_p, c_size_t, c_bool),
    "ggml_build_forward_expand": (None, c_void_p, c_void_p),
    "ggml_row_size": (c_size_t, c_int, c_int64),
    "ggml_quantize_chunk": (c_size_t, c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p),
    "ggml_backend_cpu_init": (c_void_p,),
    "ggml_backend_cpu_set_n_threads": (None, c_void_p, c_int),
    "ggml_backend_cpu_buffer_type": (c_void_p,),
    "ggml_backend_cpu_reg": (c_void_p,),
    "ggml_backend_reg_dev_get": (c_void_p, c_void_p, c_size_t),
    "ggml_backend_reg_get_proc_address": (c_void_p, c_void_p, c_char_p),
    "ggml_backend_buft_name": (c_char_p, c_void_p),
    "ggml_backend_dev_supports_op": (c_bool, c_void_p, c_void_p),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, c_void_p, c_void_p),
    "ggml_backend_buffer_free": (None, c_void_p),
    "ggml_backend_tensor_set": (None, c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_tensor_get": (None, c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_graph_compute": (c_int, c_void_p, c_void_p),
}


class Parameters(ctypes.Structure):
    """``ggml_init_params``."""

    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class Library:
    """The functions of the libraries in a folder, and its kinds of buffer by name."""

    def __init__(self, folder: Path):
        loaded = [ctypes.CDLL(str(folder / f"lib{name}.so"), ctypes.RTLD_GLOBAL) for name in ("ggml-base", "ggml-cpu", "ggml")]
        for name, (result, *arguments) in FUNCTIONS.items():
            function = next(getattr(library, name) for library in loaded if hasattr(library, name))
            function.restype = result
            function.argtypes = [Parameters if a == "parameters" else a for a in arguments]
            setattr(self, name.removeprefix("ggml_"), function)
        self._silent = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)(lambda level, text, data: None)
        self.log_set(self._silent, None)
        self.device = self.backend_reg_dev_get(self.backend_cpu_reg(), 0)
        self.buffers = {"CPU": self.backend_cpu_buffer_type()}
        found = self.backend_reg_get_proc_address(self.backend_cpu_reg(), b"ggml_backend_dev_get_extra_bufts")
        if found:
            kinds = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(found)(self.device)
            for kind in kinds if kinds else ():
                if not kind:
                    break
                self.buffers[self.backend_buft_name(kind).decode()] = kind

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def ggml_ways(W: Tensor, x: Tensor, enough: int, threads: int) -> Iterator[Way]:
    """One graph with a single product a copy of the weight."""
    folder = os.environ.get("GGML_LIBRARIES")
    if not folder:
        raise Missing("ggml: GGML_LIBRARIES does not name the folder of libggml.so")
    thread = ThreadPoolExecutor(1)
    library = thread.submit(Library, Path(folder)).result()
    for kind, buffer in TYPES:
        if buffer in library.buffers:
            way = thread.submit(_way, library, kind, buffer, W, x, enough, threads).result()
            if way is not None:
                yield way._replace(thread=thread)


def _way(library: Any, kind: str, buffer: str, W: Tensor, x: Tensor, enough: int, threads: int) -> Way | None:
    gguf = importlib.import_module("gguf")
    number = int(gguf.GGMLQuantizationType[kind.upper() if kind != "q4_K" else "Q4_K"])
    rows, columns = W.shape
    nbytes = library.row_size(number, columns) * rows
    n = copies_of(nbytes, enough)
    room = library.tensor_overhead() * (2 * n + 8) + library.graph_overhead_custom(8, False) * n
    weights, others = (library.init(Parameters(room, None, True)) for _ in range(2))
    held = [library.new_tensor_2d(weights, number, columns, rows) for _ in range(n)]
    memory = [library.backend_alloc_ctx_tensors_from_buft(weights, library.buffers[buffer])]
    given = library.new_tensor_2d(others, 0, columns, len(x))
    results = [library.mul_mat(others, w, given) for w in held]

    def free() -> None:
        for each in memory:
            library.backend_buffer_free(each)
        library.free(weights)
        library.free(others)

    if not memory[0] or not library.backend_dev_supports_op(library.device, results[0]):
        free()
        return None
    data = torch.empty(nbytes, dtype=torch.uint8)
    library.quantize_chunk(number, W.contiguous().data_ptr(), data.data_ptr(), 0, rows, columns, None)
    exact = torch.from_numpy(gguf.quants.dequantize(data.view(rows, -1).numpy(), gguf.GGMLQuantizationType(number)))
    graphs = []
    for i, (w, y) in enumerate(zip(held, results, strict=True)):
        copy = data.view(rows, -1).roll(i, 0)
        library.backend_tensor_set(w, copy.data_ptr(), 0, nbytes)
        graphs.append(library.new_graph_custom(others, 8, False))
        library.build_forward_expand(graphs[-1], y)
    memory.append(library.backend_alloc_ctx_tensors_from_buft(others, library.buffers["CPU"]))
    library.backend_tensor_set(given, x.contiguous().data_ptr(), 0, 4 * x.numel())
    backend = library.backend_cpu_init()
    library.backend_cpu_set_n_threads(backend, threads)
    library.backend_graph_compute(backend, graphs[0])
    out = torch.empty(len(x), rows)
    library.backend_tensor_get(results[0], out.data_ptr(), 0, 4 * out.numel())
    name = f"ggml {kind}" + ("" if buffer == "CPU" else f" ({buffer.removeprefix('CPU_').lower()})")
    return Way(name, nbytes, lambda i: library.backend_graph_compute(backend, graphs[i]), n, error=relative(out, x, exact), free=free)
