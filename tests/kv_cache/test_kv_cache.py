"""What a cache keeps, in how many bytes, and what attention then sees."""

import pytest
import torch
from tests.nn.test_graph import GATED, hugging_face

import lowbit
from lowbit import catalog
from lowbit.errors import DataError, ShapeError, SpecError, UnsupportedError
from lowbit.kv_cache.kv_adaquant import KVAdaQuant, split
from lowbit.kv_cache.kv_cache import Half, kv_cache, text
from lowbit.models.huggingface import HuggingFace
from lowbit.models.llama import Cache
from lowbit.quantizers.spec import quantizer

EVERY = [pytest.param(e.name, id=e.name) for e in catalog.entries("kv_cache")]


def tokens(count=100, dim=64, seed=0):
    return torch.randn(2, 3, count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spec", [*EVERY, "kivi:bits=4:recent=16", "kv:keys=(int8 row):values=nvfp4", "kv_adaquant:layout=channel"])
def test_every_cache_prints_parses_and_keeps_tokens_in_order(spec):
    cache = kv_cache(spec)
    assert kv_cache(text(cache)) == cache
    cache.check(64, 2)
    store, k, v = cache.store(0), tokens(300), tokens(300, seed=1)
    for start, end in ((0, 200), (200, 201), (201, 300)):
        K, V = store.append(k[:, :, start:end], v[:, :, start:end])
        assert K.shape[2] == V.shape[2] == store.length == end
        assert torch.equal(K[:, :, start:], k[:, :, start:end])
    old = 300 - cache.recent - cache.group
    for seen, true in ((K, k), (V, v)):
        assert not torch.equal(seen[:, :, :old], true[:, :, :old])
        assert float((seen - true).norm() / true.norm()) < 0.7
    assert store.nbytes < k.numel() * 8


def test_recent_tokens_stay_and_older_ones_are_what_the_quantizer_makes_of_their_group():
    q, x = quantizer("int4 32x1 asym"), tokens(100)
    half = Half(q, 20, 32)
    for piece in x.split(7, 2):
        half.append(piece)
    seen = half.append(x[:, :, :0])
    groups = [q.quantize(x[:, :, i : i + 32].contiguous()).dequantize() for i in (0, 32)]
    assert torch.equal(seen[:, :, :64], torch.cat(groups, 2))
    assert torch.equal(seen[:, :, 64:], x[:, :, 64:])


def test_bytes_are_those_of_the_codes_and_scales():
    half = Half(quantizer("int4 g64"), 0, 32)
    half.append(tokens(64))
    assert half.nbytes == 2 * 3 * 64 * 64 // 2 + 2 * 3 * 64 * 2


def test_keys_of_kivi_share_scales_over_tokens_and_values_over_channels():
    """A channel that is large in every token costs the others nothing in the keys."""
    x = tokens(128)
    x[..., 5] *= 100
    store = kv_cache("kivi:bits=4:recent=0").store(0)
    store.append(x, x)
    K, V = store.append(x[:, :, :0], x[:, :, :0])
    others = torch.arange(64) != 5
    lost = [float((seen - x)[..., others].square().mean()) for seen in (K, V)]
    assert lost[0] < 0.2 * lost[1]


def test_the_split_follows_the_norms():
    assert split(torch.ones(4) * 4, torch.ones(4), 6) == (4, 2)
    assert split(torch.ones(4), torch.ones(4), 6) == (3, 3)
    assert split(torch.ones(4) * 1e6, torch.ones(4), 6) == (5, 1)
    with pytest.raises(DataError, match="1 bits for keys of norm 2"):
        split(torch.ones(4), torch.ones(4), 1)


@pytest.mark.parametrize("name", ["builtin", "llama", "gemma3", "neox"])
def test_models_score_and_generate_with_it(name):
    """Whatever is not yet quantized is exact: with everything recent nothing changes."""
    if name == "builtin":
        model = lowbit.open_model("builtin")
        ids = model.encode("def f(x):\n    return x\n" * 8)[None, :150]
    else:
        changes = {"llama": GATED, "gemma3": {**GATED, "head_dim": 16}, "neox": {"intermediate_size": 24}}[name]
        module = hugging_face(name, **changes | {"max_position_embeddings": 256, "hidden_size": 32})
        model = HuggingFace(name, module, None)
        ids = torch.randint(0, 32, (1, 150), generator=torch.Generator().manual_seed(0))
    plain = model.logits(ids)
    model.kv = kv_cache("kv:keys=(int8 row):values=(int8 row):recent=512")
    torch.testing.assert_close(model.logits(ids), plain, rtol=1e-3, atol=1e-4)
    model.kv = kv_cache("kv:keys=(int8 row):values=(int8 row)")
    fine = model.logits(ids)
    model.kv = kv_cache("kv:keys=(int2 g16):values=(int2 g16)")
    coarse = model.logits(ids)
    assert torch.equal(coarse[:, :64], fine[:, :64])  # the first chunk sees nothing quantized
    assert 0 < float((fine - plain).norm()) < 0.3 * float((coarse - plain).norm())
    assert isinstance(model.fused(), str)
    if name != "neox":
        longer = model.extend(ids[:, :100], 5, to_the_end=True)
        assert longer.shape == (1, 105)


def test_generation_reads_the_cache():
    """Token by token gives what the same cache gives when it is fed by hand."""
    model = lowbit.open_model("builtin")
    ids = model.encode("import os\n" * 12)[None, :96]
    model.kv = kv_cache("kv:keys=(int2 g64):values=(int2 g64)")
    longer = model.extend(ids, 3)
    cache, new = Cache(model.kv), ids
    for i in range(3):
        with torch.no_grad():
            new = model.module(new, cache)[:, -1].argmax(-1, keepdim=True)
        assert torch.equal(longer[:, 96 + i : 97 + i], new)
    plain = Cache()
    with torch.no_grad():
        model.module(longer[:, :98], plain)
    assert cache.length == plain.length == 98
    assert cache.nbytes < 0.15 * plain.nbytes


@pytest.mark.parametrize(("spec", "error", "message"), [
    ("kivi:bits=9", DataError, "1 to 8 bits"),
    ("kv_adaquant:layout=head", DataError, "the layout token or channel"),
    ("kv:keys=(int4 g64 round=stochastic)", UnsupportedError, "draws noise"),
    ("kv:keys=(int4 g64 oops)", SpecError, "oops"),
    ("kv:group=0", DataError, "a group of 1 or more"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(spec, error, message):
    with pytest.raises(error, match=message):
        kv_cache(spec)


def test_blocks_that_do_not_divide_a_head_are_named_before_any_work():
    with pytest.raises(ShapeError, match="kv_adaquant:group=48: 48 tokens of keys with head_dim 64: .*48"):
        KVAdaQuant(group=48).check(64, 1)


def test_a_model_names_the_cache_that_does_not_fit_it():
    model = lowbit.open_model("builtin")
    model.kv = kv_cache("kivi:group=48")
    for call in (lambda: model.logits(torch.zeros(1, 4).long()), lambda: model.extend(torch.zeros(1, 4).long(), 2)):
        with pytest.raises(ShapeError, match="kivi:group=48: 48 tokens of values with head_dim 64: axis 3"):
            call()


def test_another_batch_is_refused():
    store = kv_cache("kivi").store(0)
    store.append(tokens(4), tokens(4))
    with pytest.raises(ShapeError, match="the cache holds 2 sequences, but the input has 1"):
        store.append(tokens(4)[:1], tokens(4)[:1])
