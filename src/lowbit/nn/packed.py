"""PackedWeight: a weight held as packed bytes, in the place where a module has its parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lowbit.errors import CheckpointError, UnsupportedError
from lowbit.kernels.cpu.linear_layout import PackedLinear
from lowbit.kernels.linear_spec import LinearSpec
from lowbit.kernels.op import LINEAR_LAYOUT
from lowbit.packing import packed_nbytes
from lowbit.packing import unpack as unpack_bits
from lowbit.quantizers.grid import QTensor, packed_codes
from lowbit.quantizers.linear_lowering import linear_spec
from lowbit.quantizers.matryoshka import joined, slice_rest, slice_tensor, sliceable
from lowbit.quantizers.spec import quantizer as parse
from lowbit.quantizers.spec import text
from lowbit.quantizers.weight import Form, Weight, forms, unpack

#: the buffer of the codes
CODES = "codes"


class Rest(NamedTuple):
    """What codes hold beside their slices, packed; bits of a whole code, and whether those are signed."""

    packed: Tensor
    master: int
    signed: bool


class PackedWeight(nn.Module):
    """The packed parts of a ``Weight`` as buffers, and what is needed to read them back.

    Once a kernel has laid out the weight for itself, the codes are in its layout only; they become bytes again when those are asked for.

    Moving the module to another device moves the parts; their dtypes stay, whatever the module is converted to.
    A torch function that is given a packed weight (``functional.linear(x, layer.weight)``) gets its dense weight, and methods of tensors
    (``layer.weight.squeeze(1)``) are those of the dense weight.

    Args:
        parts: as ``Weight.packed`` gives them.
        shape: of the dense weight.
        stored: the form of each term.
    """

    def __init__(self, parts: Mapping[str, Tensor], shape: Sequence[int], stored: Sequence[Form]):
        super().__init__()
        self.shape = torch.Size(shape)
        self.stored = tuple(stored)
        self._taken: PackedLinear | None = None  # holds the codes while they are not among the buffers
        self._rest: Rest | None = None  # of these codes, where the layout holds a slice of each
        self.bits: int | None = None  # of the slice of each code that counts, None for all
        self.names = {name.replace(".", "_"): name for name in parts}
        for buffer, name in self.names.items():
            self.register_buffer(buffer, parts[name])
        self.kept: Tensor | None = None
        self.keep_dense: bool | None = None
        self.unserved: str | None = None  # why the module that holds it has no use for a layout
        self._layout: PackedLinear | str | None = None
        self._unprepare: Callable[[Any], LinearSpec] | None = None  # back from the layout

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
        held = self._whole_buffers()
        return {name: held[buffer] for buffer, name in self.names.items()}

    def same(self, other: PackedWeight) -> bool:
        """Whether another weight is the same numbers in the same form."""
        own, theirs = self.parts(), other.parts()
        alike = (self.shape, self.stored) == (other.shape, other.stored) and own.keys() == theirs.keys()
        return alike and all(torch.equal(own[name], theirs[name]) for name in own)

    def unpacked(self) -> Weight:
        """The weight as it is stored, with its codes laid open."""
        return unpack(self.stored, self.parts(), tuple(self.shape))

    def view(self, bits: int | None) -> None:
        """Multiply with the upper bits of each code only, as ``slice_tensor`` rounds them; None: with all. What is stored stays.

        While a kernel reads a view of b out of m bits, its layout holds b bits and the rest m - b + 1: one bit a weight more than
        the codes, since a slice is rounded.

        Raises:
            UnsupportedError: the weight is not int8, or uint8 with a zero point, or has no so many bits.
        """
        master = self.sliceable_bits()
        if bits is not None and (master is None or not 1 <= bits <= master):
            has = "has none" if master is None else f"has those of 1 to {master}"
            raise UnsupportedError(
                f"a view of {bits} bits: a weight in {self._specs()} {has}; int8, or uint8 with zero points, has up to 8"
            )
        bits = None if bits == master else bits
        if bits != self.bits:
            self._leave_layout()
            self.bits = bits

    def sliceable_bits(self) -> int | None:
        """Bits of the codes, of which views take the upper ones; None where there are no views."""
        first = self.unpacked().terms[0]
        alone = len(self.stored) == 1 and isinstance(first, QTensor) and sliceable(first)
        return first.grid.format.bits if alone else None  # type: ignore[union-attr]

    def viewed(self) -> Weight:
        """The weight that counts, with its codes laid open: what is stored, or the slice of a view."""
        weight = self.unpacked()
        if self.bits is None:
            return weight
        term = weight.terms[0]
        assert isinstance(term, QTensor)
        return Weight((slice_tensor(term, self.bits),), (None,))

    def dense(self) -> Tensor:
        """The float32 weight; kept for the next call when ``keep_dense`` says so, or says nothing and no kernel serves the weight."""
        if self.kept is not None:
            return self.kept
        dense = self.viewed().dequantize()
        if self.keep_dense or (self.keep_dense is None and isinstance(self.layout(), str)):
            self.kept = dense
        return dense

    def layout(self) -> PackedLinear | str:
        """The weight as the kernel of its device reads it, made when first needed, or why there is none."""
        if self.keep_dense:
            return "its dense weight is kept"
        if self.unserved is not None:
            return self.unserved
        if self._layout is None:
            self._layout = self._laid_out()
        return self._layout

    def _laid_out(self) -> PackedLinear | str:
        kinds = [form.kind for form in self.stored]
        if kinds != ["quantized"]:
            return f"its weight is a sum: {' + '.join(kinds)}" if len(kinds) > 1 else f"its weight is {kinds[0]}"
        stored = self.unpacked().terms[0]
        assert isinstance(stored, QTensor)
        tensor = stored if self.bits is None else slice_tensor(stored, self.bits)
        spec = linear_spec(tensor)
        if isinstance(spec, str):
            return spec
        kernel, refusals = LINEAR_LAYOUT.plan(spec)
        if kernel is None:
            return next(iter(refusals.values())) if len(refusals) == 1 else "; ".join(f"{name}: {why}" for name, why in refusals.items())
        made = kernel.run(spec)
        self._unprepare = kernel.unprepare
        if spec.codes is tensor.codes and next(iter(self._buffers)) == CODES:  # not folded with exponents: they come back from the layout
            if self.bits is not None:
                master = stored.grid.format
                rest = packed_codes(slice_rest(stored, self.bits), master.bits - self.bits + 1)
                self._rest = Rest(rest, master.bits, stored.grid.zero is None)
            self._taken = made
            del self._buffers[CODES]
        return made  # type: ignore[no-any-return]

    def _taken_codes(self, taken: PackedLinear) -> Tensor:
        """The codes as bytes, from the layout that holds them."""
        assert self._unprepare is not None
        codes = self._unprepare(taken).codes
        if self._rest is None:
            return packed_codes(codes, taken.bits)
        packed, master, signed = self._rest
        rest = unpack_bits(packed, master - taken.bits + 1, codes.numel()).view(codes.shape)
        return packed_codes(joined(codes, rest, taken.bits, master, signed=signed), master)

    def _whole_buffers(self) -> dict[str, Tensor]:
        """The buffers with the codes, made again where they lie in the layout only."""
        held: dict[str, Tensor] = {name: b for name, b in self._buffers.items() if b is not None}
        if self._taken is not None:
            held = {CODES: self._taken_codes(self._taken), **held}
        return held

    def _leave_layout(self) -> None:
        """Hold the codes as bytes, and neither a layout nor a dense copy."""
        self._buffers = dict(self._whole_buffers())
        self.kept = self._layout = self._taken = self._rest = None

    def __getattr__(self, name: str) -> Any:
        if name == CODES and self._taken is not None:
            self._leave_layout()  # whoever has the bytes may change them
        if not name.startswith("_") and callable(getattr(Tensor, name, None)):  # some models reshape a weight before they use it
            return getattr(self.dense(), name)
        return super().__getattr__(name)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function with dense weights in the place of packed ones; torch's attention reads ``out_proj.weight`` itself."""
        plain = [a.dense() if isinstance(a, PackedWeight) else a for a in args]
        named = {k: a.dense() if isinstance(a, PackedWeight) else a for k, a in (kwargs or {}).items()}
        return func(*plain, **named)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self._taken is not None:
            destination[prefix + CODES] = self.parts()[CODES]
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedWeight:
        self._leave_layout()
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, part in before.items():
            moved = self.get_buffer(name)
            if moved.dtype != part.dtype:
                setattr(self, name, part.to(moved.device))
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._leave_layout()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        alone = {"_buffers": self._whole_buffers(), "kept": None, "_layout": None, "_taken": None, "_rest": None, "_unprepare": None}
        return {**super().__getstate__(), **alone}  # type: ignore[dict-item]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        bits = 0 if self._taken is None else self._taken.bits if self._rest is None else self._rest.master
        codes = packed_nbytes(self.shape.numel(), bits) if bits else 0
        return codes + sum(b.numel() * b.element_size() for b in self.buffers())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that arithmetic with this weight is done in."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        return self._taken.words.device if self._taken is not None else next(self.buffers()).device

    def _specs(self) -> str:
        return " + ".join(t.get("spec", t["kind"]) for t in self.describe())

    def extra_repr(self) -> str:
        seen = "" if self.bits is None else f" seen in {self.bits} bits"
        return f"{tuple(self.shape)}, {self._specs()}{seen}, {8 * self.nbytes / max(1, self.shape.numel()):.3f} bits"


def keep_dense(model: nn.Module, keep: bool | None = True) -> None:
    """Whether packed weights keep their dense float32 copy after first use, at 4 bytes a weight.

    Args:
        keep: True: they do, and torch multiplies with it; False: it is made anew in each call that needs it; None: it is kept
            where no kernel serves the packed weight.
    """
    for module in model.modules():
        if isinstance(module, PackedWeight):
            module.keep_dense = keep
            if keep:
                module._leave_layout()
            else:
                module.kept = None


def view(model: nn.Module, bits: int | None) -> nn.Module:
    """Run every packed layer of a model on the upper bits of its codes: ``lowbit.nn.view(model, 4)``; None: on all of them again.

    Bytes that are saved do not change. Seen so, a weight takes one bit more in memory than its codes have (see ``PackedWeight.view``).

    Raises:
        UnsupportedError: a layer that is not stored in integers of so many bits; nothing has been changed then.
    """
    weights = {name.removesuffix(".weight"): m for name, m in model.named_modules() if isinstance(m, PackedWeight)}
    before = {name: weight.bits for name, weight in weights.items()}
    for name, weight in weights.items():
        try:
            weight.view(bits)
        except UnsupportedError as error:
            for other, old in before.items():
                weights[other].view(old)
            raise UnsupportedError(f"layer {name}: {error}") from None
    return model
