"""PackedWeight: a weight held as packed bytes, in the place where a module has its parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowbit.errors import CheckpointError
from lowbit.quantizers.spec import quantizer as parse
from lowbit.quantizers.spec import text
from lowbit.quantizers.weight import Form, Weight, forms, unpack


class PackedWeight(nn.Module):
    """The packed parts of a ``Weight`` as buffers, and what is needed to read them back.

    Moving the module to another device moves the parts; their dtypes stay, whatever the module is converted to.
    A torch function that is given a packed weight (``functional.linear(x, layer.weight)``) gets its dense weight.

    Args:
        parts: as ``Weight.packed`` gives them.
        shape: of the dense weight.
        stored: the form of each term.
    """

    def __init__(self, parts: Mapping[str, Tensor], shape: Sequence[int], stored: Sequence[Form]):
        super().__init__()
        self.shape = torch.Size(shape)
        self.stored = tuple(stored)
        self.names = {name.replace(".", "_"): name for name in parts}
        for buffer, name in self.names.items():
            self.register_buffer(buffer, parts[name])
        self.kept: Tensor | None = None
        self.keep_dense = False

    @classmethod
    def of(cls, weight: Weight) -> PackedWeight:
        """Pack a weight.

        Raises:
            UnsupportedError: something in it is quantized by a quantizer that is not known.
        """
        return cls(weight.packed(), weight.shape, forms(weight))

    @classmethod
    def described(cls, parts: Mapping[str, Tensor], shape: Sequence[int], terms: Sequence[Mapping[str, str]]) -> PackedWeight:
        """From the description that ``describe`` gave and the parts; checked by unpacking once.

        Raises:
            CheckpointError: a part is missing, does not fit, or is one too many.
            SpecError: a spec string cannot be parsed.
        """
        module = cls(parts, shape, [Form(t["kind"], {k: parse(v) for k, v in t.items() if k != "kind"}) for t in terms])
        weight = module.unpacked()
        unknown = parts.keys() - weight.packed().keys()
        if unknown:
            raise CheckpointError(f"the parts {sorted(unknown)} belong to none of its terms")
        return module

    def describe(self) -> list[dict[str, str]]:
        """Kind of each term and the spec strings of what is quantized in it, as stored in a checkpoint."""
        return [{"kind": form.kind, **{k: text(q) for k, q in form.quantizers.items()}} for form in self.stored]

    def parts(self) -> dict[str, Tensor]:
        """The packed parts under their own (dotted) names."""
        return {name: self.get_buffer(buffer) for buffer, name in self.names.items()}

    def unpacked(self) -> Weight:
        """The weight with its codes laid open."""
        return unpack(self.stored, self.parts(), tuple(self.shape))

    def dense(self) -> Tensor:
        """The float32 weight; kept for the next call when ``keep_dense`` is set."""
        if self.kept is not None:
            return self.kept
        dense = self.unpacked().dequantize()
        if self.keep_dense:
            self.kept = dense
        return dense

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function with dense weights in the place of packed ones; torch's attention reads ``out_proj.weight`` itself."""
        plain = [a.dense() if isinstance(a, PackedWeight) else a for a in args]
        named = {k: a.dense() if isinstance(a, PackedWeight) else a for k, a in (kwargs or {}).items()}
        return func(*plain, **named)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedWeight:
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, part in before.items():
            moved = self.get_buffer(name)
            if moved.dtype != part.dtype:
                setattr(self, name, part.to(moved.device))
        self.kept = None
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.kept = None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(b.numel() * b.element_size() for b in self.buffers())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that arithmetic with this weight is done in."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device

    def extra_repr(self) -> str:
        terms = " + ".join(t.get("spec", t["kind"]) for t in self.describe())
        return f"{tuple(self.shape)}, {terms}, {8 * self.nbytes / max(1, self.shape.numel()):.3f} bits"


def keep_dense(model: nn.Module, keep: bool = True) -> None:
    """Whether packed weights keep their dense float32 copy after first use: faster, at 4 bytes a weight."""
    for module in model.modules():
        if isinstance(module, PackedWeight):
            module.keep_dense = keep
            if not keep:
                module.kept = None
