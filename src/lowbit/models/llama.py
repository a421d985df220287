"""Llama: a decoder in plain torch, with the parameter names of Hugging Face's LlamaForCausalLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowbit.errors import DataError, LowbitError, ModelError, ShapeError, UnsupportedError
from lowbit.kv_cache.kv_cache import KVCache, Store, whole


@dataclass(frozen=True)
class LlamaConfig:
    """The facts of a Llama, under the keys of Hugging Face's config.json.

    Raises:
        ModelError: a size is not above 0, the heads do not share out evenly, or head_dim is odd.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "tie_word_embeddings" and value <= 0:
                raise ModelError(f"{name} is {value}; it must be above 0")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(f"{self.num_attention_heads} attention heads do not share out over {self.num_key_value_heads} key-value heads")
        if self.head_dim % 2:
            raise ModelError(f"head_dim is {self.head_dim}; rotary positions turn pairs, so it must be even")

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> LlamaConfig:
        """From the content of a config.json. Keys that do not change the function are ignored.

        Left out, ``num_key_value_heads``, ``head_dim``, ``rms_norm_eps``, ``rope_theta``,
        ``tie_word_embeddings`` and ``max_position_embeddings`` are what Hugging Face takes them to be.

        Raises:
            ModelError: a size is missing or wrong.
            UnsupportedError: the config asks for what this file does not compute.
        """
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        for key, value, ours in [
            ("model_type", config.get("model_type", "llama"), "llama"),
            ("hidden_act", config.get("hidden_act", "silu"), "silu"),
            ("attention_bias", config.get("attention_bias", False), False),
            ("mlp_bias", config.get("mlp_bias", False), False),
            ("rope_type", rope.get("rope_type", rope.get("type", "default")), "default"),
        ]:
            if value != ours:
                raise UnsupportedError(f"{key} is {value!r}; this Llama knows only {ours!r}")

        known = {field.name: config[field.name] for field in fields(cls) if config.get(field.name) is not None}
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            if key not in known:
                raise ModelError(f"the config has no {key}")
        known.setdefault("num_key_value_heads", known["num_attention_heads"])
        known.setdefault("head_dim", known["hidden_size"] // known["num_attention_heads"])
        known.setdefault("max_position_embeddings", 2048)
        if "rope_theta" in rope:
            known["rope_theta"] = rope["rope_theta"]
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json that ``from_dict`` and Hugging Face read."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            **asdict(self),
        }


class Cache:
    """The keys and values of the tokens seen so far, a store a layer; empty when new.

    Args:
        kept: in how many bits; None keeps them as they are.
    """

    def __init__(self, kept: KVCache | None = None) -> None:
        self.kept = kept
        self.stores: dict[int, Store] = {}

    @property
    def length(self) -> int:
        """How many tokens the first layer has seen."""
        return self.stores[0].length if self.stores else 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(store.nbytes for store in self.stores.values())

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the new tokens of one layer; return all of its tokens, as attention sees them.

        Shapes:
            k, v    (batch, kv_heads, new, head_dim)
            result  two of (batch, kv_heads, seen + new, head_dim)

        Raises:
            ShapeError: the batch is not the one that the cache holds.
        """
        if layer not in self.stores:
            self.stores[layer] = whole() if self.kept is None else self.kept.store(layer)
        return self.stores[layer].append(k, v)


def rotary(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, in float32.

    angle[p, i] = p * theta^(-2i / head_dim),  i < head_dim/2; the second half repeats the first.

    Shapes:
        positions  (length,)
        result     two of (length, head_dim)

    Source:
        Su et al. (2021), RoFormer, arXiv:2104.09864, in the half-rotation layout of Hugging Face.
    """
    i = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angle = positions[:, None].float() * (1.0 / theta ** (i / head_dim))
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (x_i, x_{i + d/2}) by their position's angle, in at least float32.

    Shapes:
        x       (batch, heads, length, head_dim)
        rope    two of (length, head_dim)
        result  the shape and dtype of x
    """
    cos, sin = rope
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    first, second = wide.chunk(2, -1)
    return (wide * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)


class RMSNorm(nn.Module):
    """weight * x / sqrt(mean(x^2) + eps), the quotient in at least float32, then in the dtype of x.

    Source:
        Zhang, Sennrich (2019), Root Mean Square Layer Normalization, arXiv:1910.07467.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    """Causal attention; groups of query heads share one key-value head.

    Source:
        Ainslie et al. (2023), GQA, arXiv:2305.13245.
    """

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (batch, heads, length, head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, rope), rotate(k, rope)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """down(silu(gate x) * up x).

    Source:
        Shazeer (2020), GLU Variants Improve Transformer, arXiv:2002.05202 (SwiGLU).
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention, then the MLP; each reads the normed residual stream and adds to it."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Token ids to the last normed residual stream."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def rotary_emb(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine for positions (1, length), as Hugging Face's module of that name gives them for an input x."""
        return rotary(positions[0].to(x.device), self.config.head_dim, self.config.rope_theta)

    def forward(self, input_ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Tokens (batch, length) to hidden states (batch, length, hidden); with a cache they follow the tokens that it holds.

        Raises:
            ShapeError: more tokens than the model has positions.
        """
        seen, new = 0 if cache is None else cache.length, input_ids.shape[1]
        if seen + new > self.config.max_position_embeddings:
            raise ShapeError(f"{seen + new} tokens are more than the {self.config.max_position_embeddings} positions of this model")
        positions = torch.arange(seen, seen + new, device=input_ids.device)
        rope = rotary(positions, self.config.head_dim, self.config.rope_theta)
        # Only tokens that follow others in a cache need a mask of their own: query p sees keys 0..p.
        mask = positions[:, None] >= torch.arange(seen + new, device=input_ids.device) if seen else None

        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, rope, mask, cache)
        return self.norm(x)


class Llama(nn.Module):
    """A causal language model: token ids to the logits of each next token.

    Source:
        Touvron et al. (2023), LLaMA: Open and Efficient Foundation Language Models, arXiv:2302.13971.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids: Tensor, cache: Cache | None = None) -> Tensor:
        """The logits after every token; with a cache, ``input_ids`` go on where it ends, and it grows.

        Shapes:
            input_ids  (batch, length), int64 or int32, all sequences of one length (there is no padding)
            result     (batch, length, vocab_size), the dtype of the weights

        Raises:
            ShapeError: the ids are not (batch, length), empty, more than there are positions, or of another
                batch than the cache's.
            DataError: an id is no integer or outside the vocabulary.
        """
        self._check(input_ids)
        return self.lm_head(self.model(input_ids, cache))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        advance: Callable[[Tensor], Tensor] | None = None,
        kept: KVCache | None = None,
    ) -> Tensor:
        """Go on from ``input_ids``, one token at a time; there is no stop token.

        Args:
            temperature: 0 takes the likeliest token; above 0 draws from softmax(logits / temperature).
            seed: row r of the batch draws with seed + r, so a row alone can repeat what it did in a batch.
            advance: new ids (batch, new) to the logits (batch, vocab_size) after them, remembering those before; by default
                the model itself with a cache.
            kept: in how many bits that cache holds keys and values.

        Shapes:
            input_ids  (batch, length), as in ``forward``
            result     (batch, length + max_new_tokens), the prompt first

        Raises:
            LowbitError: as in ``forward``, or max_new_tokens or temperature is below 0.
        """
        self._check(input_ids)
        if max_new_tokens < 0 or not temperature >= 0:
            raise LowbitError(f"max_new_tokens is {max_new_tokens} and temperature {temperature}; neither goes below 0")
        generators = [torch.Generator().manual_seed(seed + row) for row in range(len(input_ids))]
        cache, new = Cache(kept), input_ids
        for _ in range(max_new_tokens):
            logits = self(new, cache)[:, -1] if advance is None else advance(new)
            if temperature == 0:
                new = logits.argmax(-1, keepdim=True)
            else:
                shares = (logits.float() / temperature).softmax(-1).cpu()
                new = torch.stack([p.multinomial(1, generator=g) for p, g in zip(shares, generators, strict=True)])
            new = new.to(input_ids)
            input_ids = torch.cat((input_ids, new), 1)
        return input_ids

    def _check(self, input_ids: Tensor) -> None:
        if input_ids.ndim != 2 or input_ids.numel() == 0:
            raise ShapeError(f"input_ids are {tuple(input_ids.shape)}; they must be (batch, length), not empty")
        if input_ids.dtype not in (torch.int64, torch.int32):
            raise DataError(f"input_ids are {input_ids.dtype}; they must be int64 or int32")
        if input_ids.is_meta or torch.compiler.is_compiling():  # no values to look at
            return
        low, high = (int(end) for end in input_ids.aminmax())
        if low < 0 or high >= self.config.vocab_size:
            wrong = low if low < 0 else high
            raise DataError(f"token id {wrong} is outside the vocabulary of {self.config.vocab_size}")
