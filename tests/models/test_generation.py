"""Generation through the fused decoder says what generation through the modules says, and is used where it can be."""

import pytest
import torch

import lowbit
from lowbit.kernels.op import backend, extension
from lowbit.models.generation import decoding_loop, fused
from lowbit.models.huggingface import HuggingFace
from lowbit.nn.decoder import FusedDecoder

pytestmark = pytest.mark.skipif(extension("lowbit._cpu") is None, reason="lowbit._cpu was not built")


def by_modules(model, *arguments, **options):
    """What the model generates without its fused decoder."""
    model.fused = lambda: "not now"
    try:
        return model.generate(*arguments, **options)
    finally:
        del model.fused


@pytest.mark.parametrize("spec", ["int4 g32", "nvfp4", "int8"])
def test_the_builtin_model_says_the_same(spec):
    model = lowbit.quantize(lowbit.open_model("builtin"), spec)
    assert isinstance(model.fused(), FusedDecoder)
    for prompt in ("def add(", "import os\n\nclass "):
        said = model.generate(prompt, max_new_tokens=48)
        assert said == by_modules(model, prompt, max_new_tokens=48)
        with backend("reference"):
            assert said == by_modules(model, prompt, max_new_tokens=48)
    drawn = model.generate("def ", max_new_tokens=32, temperature=0.8, seed=3)
    assert drawn == by_modules(model, "def ", max_new_tokens=32, temperature=0.8, seed=3) != model.generate("def ", 32, 0.8, 4)


def test_a_model_in_float_generates_by_modules():
    model = lowbit.open_model("builtin")
    assert model.fused() == "q_proj is a Linear, it is not packed"
    assert model.generate("def ", max_new_tokens=4)


def test_settings_and_stop_tokens_of_hugging_face_hold(llama_folder):
    """The folder's settings hold a repetition penalty of 1.25 and a stop token."""
    model = lowbit.quantize(HuggingFace.load(str(llama_folder())), "int8 g32")
    decoder = model.fused()
    assert isinstance(decoder, FusedDecoder)
    for options in ({}, {"temperature": 1.5, "seed": 2}, {"chat": True}):
        assert model.generate("hello", 40, **options) == by_modules(model, "hello", 40, **options)
    model.module.generation_config.eos_token_id = [int(model.extend(model.encode("hello")[None], 3)[0, -1])]
    assert model.extend(model.encode("hello")[None], 40).shape[1] == model.encode("hello").shape[0] + 3
    assert model.extend(model.encode("hello")[None], 40, to_the_end=True).shape[1] == model.encode("hello").shape[0] + 40


def test_beams_are_left_to_the_modules(llama_folder):
    model = lowbit.quantize(HuggingFace.load(str(llama_folder())), "int8 g32")
    model.module.generation_config.num_beams = 3
    assert model.generate("hello", 12) == by_modules(model, "hello", 12)


def test_more_tokens_than_positions_are_left_to_the_modules(llama_folder):
    model = lowbit.quantize(HuggingFace.load(str(llama_folder())), "int8 g32")
    ids = model.encode("hello" * 20)[None]
    assert model.extend(ids, 40).shape[1] > model.context


def test_a_decoder_is_made_anew_when_weights_are_replaced():
    model = lowbit.quantize(lowbit.open_model("builtin"), "int4 g32")
    first = model.fused()
    assert model.fused() is first is fused(first, model.module, model.logits)
    before = model.generate("def add(", 24)
    other = lowbit.quantize(lowbit.open_model("builtin"), "int2 g32")
    model.module.model.layers = other.module.model.layers
    assert model.fused() is not first
    assert model.generate("def add(", 24) == by_modules(model, "def add(", 24) != before


def test_the_loop_stops_where_it_is_told():
    model = lowbit.quantize(lowbit.open_model("builtin"), "int4 g32")
    settings = type("Settings", (), {"max_length": 12, "do_sample": False})
    ids = torch.tensor([[0, 100, 101, 102]])

    def nothing(ids, logits):
        return logits

    out = decoding_loop(model.fused())(None, ids, nothing, lambda ids, _: torch.tensor([ids.shape[1] == 9]), settings)
    with torch.no_grad():
        assert torch.equal(out, model.module.generate(ids, 5))
