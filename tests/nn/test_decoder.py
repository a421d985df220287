"""FusedDecoder: the logits of the modules, whatever the batch, the cuts and the threads; what it cannot run it refuses in words."""

import copy

import pytest
import torch
from torch import nn

import lowbit
from lowbit.errors import ShapeError
from lowbit.kernels.op import backend, extension
from lowbit.models.llama import Llama, LlamaConfig
from lowbit.nn.decoder import FusedDecoder
from lowbit.nn.packed import keep_dense
from lowbit.quantizers.weight import Form

CONFIG = LlamaConfig(
    vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, max_position_embeddings=64,
)  # fmt: skip
IDS = torch.randint(96, (2, 40), generator=torch.Generator().manual_seed(1))

pytestmark = pytest.mark.skipif(extension("lowbit._cpu") is None, reason="lowbit._cpu was not built")


def llama(weights="int4 g32", activations=None, only=("Linear",), ignore=("lm_head",), override=None, **changes):
    torch.manual_seed(0)
    model = Llama(LlamaConfig(**(vars(CONFIG) | changes)))
    for p in model.parameters():
        nn.init.normal_(p, mean=float(p.ndim == 1), std=0.1)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return lowbit.quantize(model.eval(), weights, activations=activations, only=only, ignore=ignore, override=override)


def fused(model):
    found = FusedDecoder.of(model, model)
    assert isinstance(found, FusedDecoder), found
    return found


def in_steps(decoder, ids, cuts):
    session = decoder.session(len(ids), ids.shape[1])
    return torch.cat([session.advance(part, every=True) for part in ids.split(cuts, 1)], 1)


@pytest.mark.parametrize("weights", ["int4 g32", "nvfp4", "nf4", "int8", "ternary", "int4 g16 asym", "table(-1;0;0.25;1) g32"])
@pytest.mark.parametrize("cuts", [(40,), (30, 1, 1, 8), (1,) * 40])
@torch.no_grad()
def test_the_logits_are_those_of_the_modules_on_dense_weights(weights, cuts):
    model = llama(weights)
    with backend("reference"):
        expected = model(IDS)
    torch.testing.assert_close(in_steps(fused(model), IDS, cuts), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 48},
        {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 32},
        {"rope_theta": 500.0, "rms_norm_eps": 0.1},
    ],
)
@torch.no_grad()
def test_heads_share_keys_in_every_ratio(changes):
    model = llama(**changes)
    expected = model(IDS)
    torch.testing.assert_close(in_steps(fused(model), IDS, (17, 1, 22)), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def test_the_number_of_threads_changes_no_bit_and_the_last_only_are_those_of_all():
    decoder, before = fused(llama("nvfp4", only=("Linear", "Embedding"), ignore=())), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(in_steps(decoder, IDS, (25, 1, 14)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    session = decoder.session(2, 40)
    # few rows may go through another kernel than many, whose sums round differently
    close = {"rtol": 1e-5, "atol": 1e-5 * float(results[0].abs().max())}
    torch.testing.assert_close(session.advance(IDS[:, :25]), results[0][:, 24], **close)
    torch.testing.assert_close(session.advance(IDS[:, 25:26]), results[0][:, 25], **close)
    assert session.length == 26


@torch.no_grad()
def test_inputs_in_int8_go_through_the_integer_kernel():
    model = llama("int8 g32", activations="int8 scale=float32")
    assert model.model.layers[0].mlp.up_proj.route() == ("qlinear_int8", "")
    decoder = fused(model)
    assert decoder.integer and model.model.layers[2].mlp.down_proj.activations is not None
    assert decoder.matches(model)
    with backend("reference"):
        expected = model(IDS)
    assert float((in_steps(decoder, IDS, (40,)) - expected).abs().max()) < 3e-2 * float(expected.abs().max())


@torch.no_grad()
def test_a_view_of_fewer_bits_makes_the_decoder_anew():
    model = llama("int8 g32")
    whole, before = fused(model), model(IDS)
    for bits in (4, 2):
        lowbit.nn.view(model, bits)
        assert not whole.matches(model)
        with backend("reference"):
            expected = model(IDS)
        assert float((expected - before).abs().max()) > 1e-2 * float(before.abs().max())
        torch.testing.assert_close(in_steps(fused(model), IDS, (30, 1, 9)), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def test_products_of_different_tables_share_no_sums():
    """With codes of 2 bits the kernel makes sums of numbers of the table once for all rows: not for those of another table."""
    model = llama("table(-1;0;0.25;1) g32", override={"*.k_proj": "table(-1;-0.5;0.5;2) g32", "*.up_proj": "ternary g32"})
    with backend("reference"):
        expected = model(IDS)
    torch.testing.assert_close(in_steps(fused(model), IDS, (1,) * 40), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "changes"), [
    ("LlamaForCausalLM", {}),
    ("LlamaForCausalLM", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("Qwen2ForCausalLM", {}),
    ("Qwen3ForCausalLM", {"head_dim": 32}),
    ("MistralForCausalLM", {"sliding_window": None}),
    ("LlamaForCausalLM", {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}}),
])  # fmt: skip
@torch.no_grad()
def test_models_of_hugging_face_are_found_by_their_parts(name, changes):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    config = getattr(transformers, name.replace("ForCausalLM", "Config"))(**(sizes | changes))
    model = getattr(transformers, name)(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=1.0, std=0.1)
    lowbit.quantize(model, "int4 g32")
    decoder = FusedDecoder.of(model, lambda ids: model(input_ids=ids, use_cache=False).logits)
    assert isinstance(decoder, FusedDecoder), decoder
    expected = model(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(in_steps(decoder, IDS, (30, 1, 9)), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_windows_that_a_few_tokens_do_not_show_are_refused():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.MistralConfig(vocab_size=96, max_position_embeddings=64, sliding_window=32, **sizes)
    model = lowbit.quantize(transformers.MistralForCausalLM(config).eval(), "int4 g32")
    found = FusedDecoder.of(model, lambda ids: model(input_ids=ids, use_cache=False).logits)
    assert found == "its attention sees 32 of 64 positions"


class Twice(nn.Module):
    """An activation that is not silu."""

    def forward(self, x):
        return 2 * x


def spoil(model, what):
    match what:
        case "float":
            model.model.layers[1].mlp.up_proj = nn.Linear(64, 96, bias=False).eval()
        case "hook":
            model.model.layers[0].register_forward_hook(lambda *a: None)
        case "train":
            model.model.layers[0].train()
        case "part":
            model.model.layers[0].self_attn.sink = nn.Identity().eval()
        case "sum":
            weight = model.model.layers[0].mlp.up_proj.weight
            weight.stored = (*weight.stored, Form("low rank"))
        case "norm":
            model.model.norm.weight.data = model.model.norm.weight.data.bfloat16()
        case "numbers":
            model.model.layers[2].mlp.act_fn = Twice().eval()
            mlp = type(model.model.layers[2].mlp)
            model.model.layers[2].mlp.__class__ = type("Other", (mlp,), {"forward": lambda self, x: self.act_fn(mlp.forward(self, x))})
    return model


@pytest.mark.parametrize(
    "what, message",
    [
        ("float", "up_proj is a Linear, it is not packed"),
        ("hook", "a Layer has hooks"),
        ("train", "in training mode"),
        ("part", "a Attention has a part sink"),
        ("sum", "up_proj: qlinear: its weight is a sum: quantized [+] low rank"),
        ("norm", "norm is torch.bfloat16 on cpu, not float32 on the CPU"),
        ("numbers", "its logits differ from those of the modules by .* of their largest, more than 0.001"),
    ],
)
@torch.no_grad()
def test_what_it_cannot_run_it_says(what, message):
    model = spoil(llama(), what)
    assert isinstance(FusedDecoder.of(model, model), str)
    with pytest.raises(AssertionError, match=message):
        fused(model)


@torch.no_grad()
def test_models_of_other_sizes_and_parts_are_refused():
    model = llama("int4 g4", intermediate_size=100)
    assert FusedDecoder.of(model, model) == "its width of the MLP 100 is not a multiple of 16"
    assert FusedDecoder.of(nn.Sequential(nn.ReLU()), model) == "a Sequential has no model"
    model = llama()
    keep_dense(model)
    assert FusedDecoder.of(model, model) == "q_proj: qlinear: its dense weight is kept"


@torch.no_grad()
def test_it_knows_when_the_model_has_changed():
    model = llama()
    decoder = fused(model)
    assert decoder.matches(model) and not decoder.matches(copy.deepcopy(model))
    other = llama("int8")
    model.load_state_dict(model.state_dict())
    assert not decoder.matches(model), "the bytes were loaded anew"
    decoder = fused(model)
    model.model.layers[1].mlp = other.model.layers[1].mlp
    assert not decoder.matches(model)
    decoder = fused(model)
    model.model.norm.register_forward_pre_hook(lambda *a: None)
    assert not decoder.matches(model)


@torch.no_grad()
def test_room_is_checked():
    decoder = fused(llama())
    with pytest.raises(ShapeError, match="65 tokens are more than the 64 positions"):
        decoder.session(1, 65)
    session = decoder.session(2, 8)
    session.advance(IDS[:, :5])
    for wrong in (IDS[:1, :1], IDS[:, :4], IDS[:, :0]):
        with pytest.raises(ShapeError, match="room is for 2 sequences of up to 3"):
            session.advance(wrong)
    assert session.length == 5
