"""Other ways to multiply by a quantized matrix: torch's own kernels, and onnxruntime where it is installed.

Each peer is a function of weight, input, bytes that its copies should take together, and threads; what it yields is compared with the
numbers that it holds, once, before it is measured. A peer that is not there raises Missing.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear


class Missing(Exception):
    """Why a peer is not measured, in a line."""


class Way(NamedTuple):
    """One way to multiply.

    Args:
        nbytes: of one copy of the weight.
        run: the product with the copy of that number.
        calls: products that one run makes.
        error: relative to float64, as the peer holds the numbers.
        free: gives memory back that Python does not know of.
        thread: where it has to run.
    """

    name: str
    nbytes: int
    run: Callable[[int], object]
    copies: int
    calls: int = 1
    error: float = math.nan
    free: Callable[[], None] = lambda: None
    thread: ThreadPoolExecutor | None = None


def copies_of(nbytes: int, enough: int) -> int:
    """So many that they do not stay in a cache."""
    return max(2, -(-enough // nbytes))


def relative(y: Tensor, x: Tensor, W: Tensor) -> float:
    """Of the first rows."""
    wanted = x[:16].double() @ W.double().T
    return float((y[:16].double() - wanted).norm() / wanted.norm())


def rounded(W: Tensor, group: int, top: int = 7) -> tuple[Tensor, Tensor]:
    """Integers and scales of groups of a row."""
    parts = W.view(len(W), -1, group)
    scale = (parts.abs().amax(-1, keepdim=True) / top).clamp(min=1e-12)
    return (parts / scale).round().to(torch.int8).view(W.shape), scale.squeeze(-1)


def float32_way(W: Tensor, x: Tensor, enough: int) -> Way:
    """What everything is compared with: torch on the weight as it is."""
    n = copies_of(4 * W.numel(), enough)
    wide = [W.roll(i, 0) for i in range(n)]
    return Way("torch float32", 4 * W.numel(), lambda i: linear(x, wide[i]), n)


def torch_ways(W: Tensor, x: Tensor, enough: int, threads: int) -> Iterator[Way]:
    """bfloat16, int8 with dynamic activations two ways, int4 in groups."""
    n = copies_of(2 * W.numel(), enough)
    halves, xh = [W.roll(i, 0).bfloat16() for i in range(n)], x.bfloat16()
    yield Way("torch bfloat16 in and out", 2 * W.numel(), lambda i: linear(xh, halves[i]), n, error=relative(linear(xh, halves[0]), x, W))
    q, s = rounded(W, W.shape[1], 127)
    n = copies_of(W.numel(), enough)
    eights = [q.roll(i, 0) for i in range(n)]

    def int_mm(i: int, s: Tensor = s) -> Tensor:  # names are bound again below
        sx = x.abs().amax(1, keepdim=True) / 127
        return torch._int_mm((x / sx).round().to(torch.int8), eights[i].T).float() * sx * s.T

    yield Way("torch._int_mm, int8 x int8 by row", W.numel(), int_mm, n, error=relative(int_mm(0), x, q.double() * s.double()))
    packed = torch.ops.quantized.linear_prepack
    per_row = torch.quantize_per_channel(W, s[:, 0].double(), torch.zeros(len(W), dtype=torch.long), 0, torch.qint8)
    dynamic = [packed(per_row if i == 0 else per_row.clone(), None) for i in range(n)]
    run = torch.ops.quantized.linear_dynamic
    yield Way(
        "torch int8 dynamic",
        W.numel(),
        lambda i: run(x, dynamic[i], False),
        n,
        error=relative(run(x, dynamic[0], False), x, q.double() * s.double()),
    )
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    for group in (32, 128):
        q, s = rounded(W, group)
        words = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.int() + 8, 1)
        pairs = torch.stack([s.T, torch.zeros_like(s.T)], -1).contiguous().bfloat16()
        nbytes = words.numel() * words.element_size() + 2 * pairs.numel()
        n = copies_of(nbytes, enough)
        fours = [(words.roll(i, 0), pairs.clone()) for i in range(n)]

        def int4(i: int, fours: list[tuple[Tensor, Tensor]] = fours, group: int = group) -> Tensor:
            return multiply(xh, fours[i][0], group, fours[i][1])

        exact = (q.view(len(W), -1, group) * s.bfloat16().double()[..., None]).view(W.shape)
        yield Way(f"torch int4pack g{group}, bfloat16 in and out", nbytes, int4, n, error=relative(int4(0), x, exact))


def onnxruntime_ways(W: Tensor, x: Tensor, enough: int, threads: int) -> Iterator[Way]:
    """MatMulNBits with 4 and 8 bits, int8 activations (accuracy level 4) and float32 ones (0). Copies are rolled: equal ones get merged."""
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
        raise Missing("onnxruntime is not installed (pip install onnx onnxruntime)")
    onnx, runtime = (__import__(name) for name in ("onnx", "onnxruntime"))
    make = onnx.helper
    rows, columns = W.shape
    for bits, group, level in ((4, 32, 4), (4, 32, 0), (4, 128, 4), (8, 32, 4)):
        q, s = rounded(W, group, 7 if bits == 4 else 127)
        u = (q.short() + (8 if bits == 4 else 128)).to(torch.uint8).view(rows, columns // group, group)
        data = u[..., 0::2] | u[..., 1::2] << 4 if bits == 4 else u
        nbytes = data.numel() + 4 * s.numel()
        n = copies_of(nbytes, enough)
        nodes, constants, inputs, outputs = [], [], [], []
        for i in range(n):
            constants += [onnx.numpy_helper.from_array(data.roll(i, 0).numpy(), f"B{i}")]
            constants += [onnx.numpy_helper.from_array(s.roll(i, 0).reshape(-1).numpy(), f"S{i}")]
            nodes.append(
                make.make_node(
                    "MatMulNBits", [f"x{i}", f"B{i}", f"S{i}"], [f"y{i}"], domain="com.microsoft", K=columns, N=rows, bits=bits,
                    block_size=group, accuracy_level=level,
                )
            )  # fmt: skip
            inputs.append(make.make_tensor_value_info(f"x{i}", onnx.TensorProto.FLOAT, [len(x), columns]))
            outputs.append(make.make_tensor_value_info(f"y{i}", onnx.TensorProto.FLOAT, [len(x), rows]))
        graph = make.make_graph(nodes, "products", inputs, outputs, constants)
        domains = [make.make_opsetid("", 21), make.make_opsetid("com.microsoft", 1)]
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = make.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        value = runtime.OrtValue.ortvalue_from_numpy(x.numpy())
        results = []
        for i in range(n):
            results.append(runtime.OrtValue.ortvalue_from_numpy(torch.zeros(len(x), rows).numpy()))
            binding.bind_ortvalue_input(f"x{i}", value)
            binding.bind_ortvalue_output(f"y{i}", results[-1])

        def run(_: int, session: object = session, binding: object = binding) -> None:
            session.run_with_iobinding(binding)  # type: ignore[attr-defined]

        run(0)
        exact = (q.view(rows, -1, group) * s.double()[..., None]).view(W.shape)
        error = relative(torch.from_numpy(results[0].numpy()), x, exact)
        kind = "int8" if level == 4 else "float32"
        yield Way(f"onnxruntime MatMulNBits {bits} bits g{group}, {kind} sums", nbytes, run, 1, n, error)
