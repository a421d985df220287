"""Faults in transforms, edges, and the cache of keys and values, for ``mutations.py``: name, file, old text, new text, tests."""

from __future__ import annotations

TRANSFORM, HADAMARD = ("transforms/test_transform.py",), ("transforms/test_hadamard.py", "test_contracts.py::test_transforms")
WHOLE, EDGES, CACHE = ("recipes/test_transforming.py",), ("nn/test_edges.py",), ("kv_cache/test_kv_cache.py",)

FAULTS = (
    ("a consumer is divided like the numbers", "transforms/transform.py",
     "(W.double() * self.scale)", "(W.double() / self.scale)", TRANSFORM),
    ("a shift leaves the bias the wrong way", "transforms/transform.py",
     "moved if b is None else moved + b", "-moved if b is None else b - moved", TRANSFORM),
    ("channels of one source are not tied", "transforms/transform.py",
     "return mean[self.classes].to(scale.device, scale.dtype)", "return scale", TRANSFORM),
    ("a transposed Hadamard forgets the signs", "transforms/hadamard.py", "transposed=True) * signs", "transposed=True)", HADAMARD),
    ("Paley's matrix without its border's sign", "transforms/hadamard.py", "-1 if skew else 1", "1", HADAMARD),
    ("alpha on the wrong side", "transforms/smoothquant.py",
     "(x**alpha / w ** (1 - alpha))", "(x ** (1 - alpha) / w**alpha)", ("transforms/test_smoothquant.py",)),
    ("AWQ keeps the worst exponent", "transforms/awq.py", ".argmin()", ".argmax()", ("transforms/test_awq.py",)),
    ("a shift to the lower end", "transforms/outlier_suppression_plus.py",
     "(low + high) / 2 if", "low if", ("transforms/test_outlier_suppression_plus.py",)),
    ("biases are rounded down", "transforms/llm_fp4.py",
     "self.mantissa_bits) + 0.5", "self.mantissa_bits)", ("transforms/test_llm_fp4.py",)),
    ("producers are not proved", "nn/edges.py", "and _proved(module, group, producer, classes, run, out)", "", EDGES),
    ("Gemma's gains are taken for plain ones", "nn/edges.py", "for rest in (0.0, 1.0):", "for rest in (1.0,):", EDGES),
    ("packed layers lose their changes", "nn/change.py",
     "if held is not None and attached(new) is None:", "if False:", ("nn/test_change.py",)),
    ("nobody looks whether a block still computes the same", "recipes/transforming.py",
     "if not lost <= TOLERANCE", "if False and not lost <= TOLERANCE", WHOLE),
    ("a turned stream is not turned back", "recipes/transforming.py",
     "self.edits.attach(norm, self.turned.inverse())", "self.edits.attach(norm, self.turned)", WHOLE),
    ("recent tokens are quantized", "kv_cache/kv_cache.py",
     "rest.shape[2] - self.recent >= self.group", "rest.shape[2] >= self.group", CACHE),
    ("keys of KIVI by token", "kv_cache/kivi.py",
     "return by_channel(self.bits, self.group), by_token", "return by_token(self.bits, self.group), by_token", CACHE),
    ("more bits for values", "kv_cache/kv_adaquant.py", "math.log2(k / v)", "math.log2(v / k)", CACHE),
    ("biases are corrected the wrong way", "solvers/bias_correction.py",
     "(W.double() - Q.double())", "(Q.double() - W.double())", ("solvers/test_bias_correction.py",)),
    ("corrected biases are not kept with their unit", "recipes/restartable.py",
     '"biases": sorted(done.biases)', '"biases": []', ("solvers/test_bias_correction.py",)),
)  # fmt: skip
