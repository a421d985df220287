"""OpenVINO's product with compressed weights, where the package is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from peers.linear import Missing, Way, copies_of, relative, rounded

#: bits, columns that share a scale (0: the row), name, settings of the plugin
KINDS = (
    (4, 128, "float32", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}),
    (4, 128, "int8 activations g32", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "32"}),
    (8, 0, "as it likes", {}),
)


def openvino_ways(W: Tensor, x: Tensor, enough: int, threads: int) -> Iterator[Way]:
    """All copies are products of one model with an input each; copies are rolled, equal ones could be merged."""
    if importlib.util.find_spec("openvino") is None:
        raise Missing("openvino is not installed (pip install openvino)")
    for bits, group, name, settings in KINDS:
        yield _way(W, x, enough, threads, bits, group, f"OpenVINO int{bits} {f'g{group}' if group else 'row'}, {name}", settings)


def _way(W: Tensor, x: Tensor, enough: int, threads: int, bits: int, group: int, name: str, settings: dict[str, str]) -> Way:
    ov: Any = importlib.import_module("openvino")
    op: Any = importlib.import_module("openvino.opset13")
    (rows, columns), wide = W.shape, group or W.shape[1]
    q, s = rounded(W, wide, 7 if bits == 4 else 127)
    s = s.half().float()
    data = q.view(rows, -1, wide)
    data = data[..., 0::2] & 15 | data[..., 1::2] << 4 if bits == 4 else data
    nbytes = data.numel() + 2 * s.numel()
    n = copies_of(nbytes, enough)
    inputs = [op.parameter([len(x), columns], ov.Type.f32, name=f"x{i}") for i in range(n)]
    results, kept = [], []
    for i in range(n):
        copy, shape = data.roll(i, 0).contiguous(), ov.Shape([rows, columns // wide, wide])
        kept.append(copy)  # a tensor of half bytes shares its memory
        held = ov.Tensor(copy.view(torch.uint8).numpy().reshape(-1), shape, ov.Type.i4) if bits == 4 else ov.Tensor(copy.numpy())
        number = op.multiply(op.convert(op.constant(held), "f16"), op.constant(s.roll(i, 0).half().unsqueeze(-1).numpy()))
        matrix = op.convert(op.reshape(number, op.constant([rows, columns]), False), "f32")
        results.append(op.matmul(inputs[i], matrix, False, True))
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False, "PERFORMANCE_HINT": "LATENCY", **settings}
    compiled = ov.Core().compile_model(ov.Model(results, inputs, "products"), "CPU", options)
    request, given = compiled.create_infer_request(), ov.Tensor(x.numpy())
    for i in range(n):
        request.set_input_tensor(i, given)
    request.infer()
    y = torch.from_numpy(request.get_output_tensor(0).data.copy())
    exact = (q.view(rows, -1, wide) * s.double()[..., None]).view(W.shape)
    return Way(name, nbytes, lambda _: request.infer(), 1, n, relative(y, x, exact), kept.clear)
