"""FusedDecoder: a step of a Llama-like decoder in one call of the C++ extension, over the packed weights of its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lowbit.errors import ShapeError
from lowbit.kernels.cpu.linear_layout import PackedLinear
from lowbit.kernels.op import extension
from lowbit.nn.linear import Linear

#: widths come in whole registers
WIDTH = 16

#: the largest difference of the logits from those of the modules, in units of their largest magnitude
TOLERANCE = 1e-3

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
HEAD_NORMS = ("q_norm", "k_norm")


class _Unfit(Exception):
    """Why a model cannot be run this way."""


class FusedDecoder:
    """The whole of a decoder between its embedding and its logits; ``of`` makes one, ``session`` runs it.

    A block is x += o(attention(q, k, v)), x += down(silu(gate) * up), each on the normed x, in float32 throughout.
    Results do not depend on the number of threads.
    """

    def __init__(self, module: nn.Module):
        engine: Any = extension("lowbit._cpu")
        if engine is None:
            raise _Unfit("lowbit._cpu was not built")
        trunk = _child(module, "model")
        if set(dict(module.named_children())) - {"model", "lm_head"}:
            raise _Unfit(f"{type(module).__name__} has more parts than a decoder and an output layer")
        if set(dict(trunk.named_children())) - {"embed_tokens", "layers", "norm", "rotary_emb"}:
            raise _Unfit(f"{type(trunk).__name__} has more parts than an embedding, blocks and a norm")
        _check_plain(module)
        self._module = module
        self._held: list[Any] = []  # whatever the pointers lead to
        self.integer = False
        config: Any = module.config
        blocks = list(_child(trunk, "layers").children())
        if not blocks:
            raise _Unfit("it has no blocks")
        self.embedding = _child(trunk, "embed_tokens")
        self.positions = int(config.max_position_embeddings)
        _check_attends_all(config, self.positions)
        first = _child(blocks[0], "self_attn")
        self.hidden = _linear(first, "q_proj").in_features
        head_dim = int(getattr(config, "head_dim", None) or self.hidden // config.num_attention_heads)
        self.heads, self.kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        width = _linear(_child(blocks[0], "mlp"), "gate_proj").out_features
        for name, size in (("hidden size", self.hidden), ("head_dim", head_dim), ("width of the MLP", width)):
            if size % WIDTH:
                raise _Unfit(f"its {name} {size} is not a multiple of {WIDTH}")
        if self.heads * head_dim != _linear(first, "q_proj").out_features:
            raise _Unfit(f"{self.heads} heads of {head_dim} are not the {_linear(first, 'q_proj').out_features} outputs of q_proj")
        cosine, sine = self._rotary(trunk, head_dim)
        head = _child(module, "lm_head")
        self.vocabulary = int(head.out_features)  # type: ignore[arg-type]
        self.engine = engine.Decoder(
            self.hidden, self.heads, self.kv_heads, head_dim, width, _eps(_child(trunk, "norm")), _scale(first, head_dim),
            cosine.data_ptr(), sine.data_ptr(), self._norm(trunk, "norm"), self._head(head),
        )  # fmt: skip
        for block in blocks:
            self._add(block, self.engine)
        self._made_from = list(_parts(module))

    @classmethod
    def of(cls, module: nn.Module, logits: Callable[[Tensor], Tensor]) -> FusedDecoder | str:
        """The decoder of a language model, or why its modules have to run one by one.

        It is found by the names and shapes of its parts, then compared with the modules on a few tokens, inputs of layers as they
        are: rounded to integers, a sum that ends elsewhere in its last bit can move what follows by percents.

        Args:
            logits: ids (1, length) to logits (1, length, vocabulary), through the modules.
        """
        try:
            made = cls(module)
            with _inputs_as_they_are(module):
                difference = (cls(module) if made.integer else made)._difference(logits)
        except _Unfit as reason:
            return str(reason)
        if not difference <= TOLERANCE:
            return f"its logits differ from those of the modules by {difference:.2g} of their largest, more than {TOLERANCE:g}"
        return made

    def matches(self, module: nn.Module) -> bool:
        """Whether this decoder is still that of the module: nothing has been replaced, moved or hooked since."""
        if module is not self._module:
            return False
        try:
            _check_plain(module)
            return all(now is then for now, then in zip(_parts(module), self._made_from, strict=True))
        except (_Unfit, ValueError):
            return False

    def session(self, batch: int, capacity: int) -> Session:
        """Room for ``capacity`` tokens of ``batch`` sequences, none of them seen yet.

        Raises:
            ShapeError: more tokens than the model has positions.
        """
        if capacity > self.positions:
            raise ShapeError(f"{capacity} tokens are more than the {self.positions} positions of this model")
        return Session(self, batch, capacity)

    def _difference(self, logits: Callable[[Tensor], Tensor]) -> float:
        count = min(6, self.positions)
        ids = (torch.arange(count) * (self.vocabulary - 1) // count)[None]
        expected = logits(ids)[0].float()
        session = self.session(1, count)
        own = torch.cat([session.advance(ids[:, : count - 1], every=True)[0], session.advance(ids[:, count - 1 :])])
        return float((own - expected).abs().max() / expected.abs().max())

    def _rotary(self, trunk: nn.Module, head_dim: int) -> tuple[Tensor, Tensor]:
        rotary = getattr(trunk, "rotary_emb", None)
        if rotary is None:
            raise _Unfit(f"{type(trunk).__name__} has no rotary_emb")
        if getattr(rotary, "rope_type", "default") in ("dynamic", "longrope"):
            raise _Unfit(f"rotary angles of type {rotary.rope_type} depend on the length")
        cosine, sine = rotary(torch.zeros(1, 1, 1), torch.arange(self.positions)[None])
        half = head_dim // 2
        if cosine.shape[-1] != head_dim or not torch.equal(cosine[..., :half], cosine[..., half:]):
            raise _Unfit(f"rotary angles of {cosine.shape[-1]} numbers do not turn the halves of heads of {head_dim}")
        return self._hold(cosine.reshape(-1, head_dim)[:, :half]), self._hold(sine.reshape(-1, head_dim)[:, :half])

    def _hold(self, tensor: Tensor) -> Tensor:
        kept = tensor.detach().float().contiguous()
        self._held.append(kept)
        return kept

    def _norm(self, parent: nn.Module, name: str) -> int:
        norm = _child(parent, name)
        weight = norm._parameters.get("weight")
        if weight is None or dict(norm.named_children()) or len(norm._parameters) != 1:
            raise _Unfit(f"{name} is a {type(norm).__name__}, not a norm with one weight")
        return self._pointer(weight, name)

    def _pointer(self, tensor: Tensor, name: str) -> int:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise _Unfit(f"{name} is {tensor.dtype} on {tensor.device}, not float32 on the CPU")
        self._held.append(tensor)
        return tensor.data_ptr()

    def _bias(self, linear: nn.Module, name: str) -> int:
        return 0 if linear.bias is None else self._pointer(linear.bias, f"the bias of {name}")  # type: ignore[arg-type]

    def _product(self, parent: nn.Module, name: str) -> tuple[Any, int, int, int, int, bool]:
        linear = _linear(parent, name)
        route, integer = linear.route(), linear.activations is not None
        if route.kernel != ("qlinear_int8" if integer else "qlinear"):
            raise _Unfit(f"{name}: {route.refused}")
        layout = linear.weight.layout()
        if not isinstance(layout, PackedLinear):
            raise _Unfit(f"{name}: its weight is not laid out for the CPU")
        self._held.append(layout)
        self.integer |= integer
        return layout.handle, 0, self._bias(linear, name), linear.out_features, linear.in_features, integer

    def _head(self, head: nn.Module) -> tuple[Any, int, int, int, int, bool]:
        if isinstance(head, Linear):
            return self._product(self._module, "lm_head")
        if type(head) is not nn.Linear:
            raise _Unfit(f"lm_head is a {type(head).__name__}")
        return None, self._pointer(head.weight, "lm_head"), self._bias(head, "lm_head"), head.out_features, head.in_features, False

    def _add(self, block: nn.Module, engine: Any) -> None:
        if set(dict(block.named_children())) != BLOCK:
            raise _Unfit(f"a {type(block).__name__} has other parts than attention, an MLP and a norm before each")
        attention, mlp = _child(block, "self_attn"), _child(block, "mlp")
        _only(attention, {*ATTENTION, *HEAD_NORMS, "rotary_emb"})
        _only(mlp, {*MLP, "act_fn"})
        norms = [self._norm(block, "input_layernorm"), self._norm(block, "post_attention_layernorm")]
        norms += [self._norm(attention, name) if hasattr(attention, name) else 0 for name in HEAD_NORMS]
        products = [self._product(attention, name) for name in ATTENTION] + [self._product(mlp, name) for name in MLP]
        engine.add(norms, products)


class Session:
    """The keys and values of some sequences of one length, and the steps that add to them.

    Args:
        capacity: how many tokens there is room for.
    """

    def __init__(self, decoder: FusedDecoder, batch: int, capacity: int):
        self._decoder = decoder
        self._cache = decoder.engine.cache(batch, capacity)
        self._batch = batch
        self._capacity = capacity

    @property
    def length(self) -> int:
        """How many tokens it has seen."""
        return self._cache.length  # type: ignore[no-any-return]

    def advance(self, ids: Tensor, *, every: bool = False) -> Tensor:
        """Logits after the last of these tokens, or after each.

        Shapes:
            ids     (batch, new)
            result  (batch, vocabulary), or (batch, new, vocabulary) with ``every``; float32

        Raises:
            ShapeError: another batch, no tokens, or more than there is room for.
        """
        decoder, (batch, new) = self._decoder, ids.shape
        if batch != self._batch or not 0 < new <= self._capacity - self.length:
            raise ShapeError(
                f"ids of shape {tuple(ids.shape)}: room is for {self._batch} sequences of up to {self._capacity - self.length}"
            )
        x = decoder.embedding(ids).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        logits = torch.empty((batch, new, decoder.vocabulary) if every else (batch, decoder.vocabulary))
        decoder.engine.step(self._cache, x.data_ptr(), new, logits.data_ptr(), every, torch.get_num_threads())
        return logits


def _child(module: nn.Module, name: str) -> nn.Module:
    child = module._modules.get(name)
    if child is None:
        raise _Unfit(f"a {type(module).__name__} has no {name}")
    return child


def _linear(parent: nn.Module, name: str) -> Linear:
    child = _child(parent, name)
    if not isinstance(child, Linear):
        raise _Unfit(f"{name} is a {type(child).__name__}, it is not packed")
    return child


def _only(module: nn.Module, names: set[str]) -> None:
    others = set(dict(module.named_children())) - names
    if others:
        raise _Unfit(f"a {type(module).__name__} has a part {min(others)}")


def _check_attends_all(config: Any, positions: int) -> None:
    """Attention sees every position before its own; on the few tokens of the comparison a window would not show."""
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None) or ["sliding_attention"]
    slides = window is not None and getattr(config, "use_sliding_window", True) and "sliding_attention" in kinds
    for size in (window if slides else None, getattr(config, "attention_chunk_size", None)):
        if size is not None and size < positions:
            raise _Unfit(f"its attention sees {size} of {positions} positions")


@contextmanager
def _inputs_as_they_are(module: nn.Module) -> Iterator[None]:
    """Inside, packed linear layers do not quantize what they are given."""
    held = [(m, m.activations) for m in module.modules() if isinstance(m, Linear)]
    try:
        for linear, _ in held:
            linear.activations = None
        yield
    finally:
        for linear, activations in held:
            linear.activations = activations


def _eps(norm: nn.Module) -> float:
    return float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0)))


def _scale(attention: nn.Module, head_dim: int) -> float:
    return float(getattr(attention, "scaling", head_dim**-0.5))


def _check_plain(module: nn.Module) -> None:
    """Modules run as they are defined: no hooks, no forward of an instance's own, no dropout."""
    for each in module.modules():
        if each._forward_hooks or each._forward_pre_hooks or "forward" in each.__dict__:
            raise _Unfit(f"a {type(each).__name__} has hooks")
        if each.training:
            raise _Unfit("it is in training mode")


def _parts(module: nn.Module) -> Iterator[object]:
    """Every object that the pointers of a decoder lead to."""
    for each in module.modules():
        yield each
        yield from (p for p in each._parameters.values() if p is not None)
        if isinstance(each, Linear):
            yield each.weight.layout()
