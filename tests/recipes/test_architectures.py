"""Decoders, encoders, mixtures, state space models, networks for images and diffusion go through one door."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.nn.test_graph import GATED, ViT, hugging_face
from torch import Tensor, nn
from torch.nn import functional

import lowbit
from lowbit.recipes.walk import Source


class Inverted(nn.Module):
    """A block of EfficientNet-Lite: expansion, depthwise convolution, projection, each normed; the input is added where it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 4 * inputs
        self.expand, self.bn1 = nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.depth, self.bn2 = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide)
        self.project, self.bn3 = nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.added = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.bn1(self.expand(x)))
        y = self.bn3(self.project(functional.relu6(self.bn2(self.depth(y)))))
        return x + y if self.added else y


class EfficientNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Inverted(8, 16, 2), Inverted(16, 16, 1), Inverted(16, 16, 1))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(functional.relu6(self.bn(self.stem(x)))).mean((2, 3)))


class UNet(nn.Module):
    """A toy of a diffusion model: down, middle, up with a skip, each told the time."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 16))
        self.first, self.down = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, 2, 1)
        self.norm, self.middle = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 3, padding=1)
        self.up, self.last = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, sample: tuple[Tensor, Tensor]) -> Tensor:
        x, t = sample
        angles = t[:, None] * torch.logspace(0, -2, 8)
        told = self.time(torch.cat((angles.sin(), angles.cos()), 1))[:, :, None, None]
        a = functional.silu(self.first(x) + told)
        b = self.middle(functional.silu(self.norm(self.down(a)))) + told
        b = functional.interpolate(b, scale_factor=2.0)
        return self.last(functional.silu(self.up(torch.cat((a, b), 1))))


class DiT(nn.Module):
    """A toy of a diffusion transformer: the time scales and shifts what norms give (adaLN)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.time = nn.Linear(16, 32), nn.Linear(16, 32)
        self.blocks = nn.ModuleList(Modulated(32) for _ in range(2))
        self.last = nn.Linear(32, 16)

    def forward(self, sample: tuple[Tensor, Tensor]) -> Tensor:
        x, t = sample
        angles = t[:, None] * torch.logspace(0, -2, 8)
        told = self.time(torch.cat((angles.sin(), angles.cos()), 1))
        tokens = functional.unfold(x, 4, stride=4).mT
        tokens = self.patch(tokens)
        for block in self.blocks:
            tokens = block(tokens, told)
        return self.last(tokens)


class Modulated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.modulation = nn.Linear(width, 4 * width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        a, b, c, d = self.modulation(functional.silu(told))[:, None].chunk(4, -1)
        q, k, v = self.qkv(self.norm1(x) * (1 + a) + b).chunk(3, -1)
        x = x + self.proj(functional.scaled_dot_product_attention(q, k, v))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x) * (1 + c) + d)))


def mixture(name: str, **changes: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 64}
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**(sizes | changes))).eval()  # type: ignore[no-any-return]


def tokens() -> list[Tensor]:
    return list(torch.randint(0, 32, (6, 1, 24), generator=torch.Generator().manual_seed(0)))


def images(channels: int, size: int) -> list[Tensor]:
    flat = torch.randn(6, 1, channels, size, size, generator=torch.Generator().manual_seed(0))
    return [functional.avg_pool2d(x, 3, 1, 1) * 3 for x in flat]


def noisy(size: int) -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.tensor([float(i)])) for i, x in enumerate(images(1, size))]


WIDE = {"hidden_size": 32}
TEXT: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: hugging_face("llama", **GATED | WIDE | {"intermediate_size": 64}),
    "qwen3": lambda: hugging_face("qwen3", **GATED | WIDE | {"head_dim": 16, "intermediate_size": 64}),
    "gemma3": lambda: hugging_face("gemma3", **GATED | WIDE | {"head_dim": 16, "intermediate_size": 64}),
    "opt": lambda: hugging_face("opt", **WIDE, ffn_dim=64, word_embed_proj_dim=32),
    "neox": lambda: hugging_face("neox", **WIDE, intermediate_size=64),
    "bert": lambda: hugging_face("bert", **WIDE, intermediate_size=64),
    "mixture": lambda: mixture(
        "Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, intermediate_size=64, head_dim=16,
        num_attention_heads=2, num_key_value_heads=1,
    ),
    "mamba": lambda: mixture("Mamba", state_size=8, intermediate_size=64),
    "mamba2": lambda: mixture("Mamba2", state_size=8, num_heads=4, head_dim=16, n_groups=1, expand=2, chunk_size=8),
}  # fmt: skip


def run_text(model: nn.Module) -> Callable[[Any], Tensor]:
    def run(ids: Tensor) -> Tensor:
        cache = {} if type(model).__name__ == "BertModel" else {"use_cache": False}
        out = model(input_ids=ids, **cache)
        return out.logits if hasattr(out, "logits") else out.last_hidden_state  # type: ignore[no-any-return]

    return run


IMAGES: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Any]]]] = {
    "efficientnet": (EfficientNet, lambda: images(3, 16)),
    "vit": (ViT, lambda: images(3, 8)),
    "unet": (UNet, lambda: noisy(8)),
    "dit": (DiT, lambda: noisy(16)),
}
NAMES = [*TEXT, *IMAGES]


def made(name: str) -> tuple[nn.Module, Callable[[Any], Tensor], list[Any]]:
    if name in TEXT:
        model = TEXT[name]()
        return model, run_text(model), tokens()
    make, samples = IMAGES[name]
    torch.manual_seed(0)
    model = make().eval()
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            torch.nn.init.uniform_(each.weight, 0.5, 1.5)
    return model, model, samples()


def lost(name: str, weights: str, **options: Any) -> tuple[float, nn.Module]:
    """||results - those of the original||^2 over all samples, as a share."""
    model, run, samples = made(name)
    with torch.no_grad():
        expected = [run(x) for x in samples]
    quantized = lowbit.quantize(model, weights, data=Source(samples, run), **options)
    run = run_text(quantized) if name in TEXT else quantized
    with torch.no_grad():
        found = [run(x) for x in samples]
    assert all(bool(torch.isfinite(y).all()) for y in found)
    error = sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
    return error / sum(float(b.square().sum()) for b in expected), quantized


@pytest.mark.parametrize("name", NAMES)
def test_rounding_and_gptq(name: str) -> None:
    """Every linear and convolution layer but the output layer is packed; what is calibrated is nearer to the original."""
    count = sum(isinstance(m, nn.Linear | nn.Conv2d | nn.Conv1d) for n, m in made(name)[0].named_modules() if not n.endswith("lm_head"))
    nearest, model = lost(name, "int3 row")
    packed = [m for m in model.modules() if isinstance(m, lowbit.nn.Linear) or type(m).__name__ == "Convolution"]
    assert len(packed) >= count
    calibrated, _ = lost(name, "int3 row", solver="gptq")
    assert 0 < calibrated < nearest


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("transform", ["smoothquant:edges=all", "hadamard:size=8", "awq"])
def test_transforms_keep_what_they_compute(name: str, transform: str) -> None:
    """With weights in float16 nothing else is left of a transform; the check of each block has passed too."""
    if name in ("efficientnet", "vit", "unet") and transform.startswith("hadamard"):
        transform = "hadamard:size=1"
    if name == "mamba" and transform.startswith("hadamard"):
        transform = "hadamard:size=2"
    error, _ = lost(name, "float16", transforms=[transform])
    assert error < 1e-5


def test_a_model_is_copied_with_its_changes() -> None:
    _, model = lost("llama", "int8", transforms=["hadamard:size=8"])
    again = copy.deepcopy(model)
    ids = tokens()[0]
    with torch.no_grad():
        assert torch.equal(run_text(model)(ids), run_text(again)(ids))
