"""PackedWeight: what is packed reads back, in a state dict, on the way through dtypes, and where torch reads a weight itself."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional

import lowbit
from lowbit.errors import CheckpointError, SpecError, UnsupportedError
from lowbit.kernels.op import extension
from lowbit.kernels.reference import qlinear_int8 as reference
from lowbit.nn.linear import Linear
from lowbit.nn.packed import PackedWeight, keep_dense
from lowbit.quantizers.linear_lowering import linear_spec
from lowbit.quantizers.matryoshka import slice_tensor
from lowbit.quantizers.spec import quantizer
from lowbit.quantizers.weight import Indexed, LowRank, Weight

SPECS = ["nvfp4", "int4 g32 asym", "nf4", "ternary", "int3 g32 mse", "e2m1 g32 sign_split"]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(spec="nvfp4", shape=(16, 64)):
    scheme = quantizer(spec)
    return PackedWeight.of(Weight((scheme.quantize(random(*shape)),), (scheme,)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16, bias=False)).eval()


@pytest.mark.parametrize("spec", SPECS)
def test_parts_and_description_give_the_weight_back(spec):
    weight = packed(spec)
    again = PackedWeight.described(weight.parts(), weight.shape, weight.describe())
    assert torch.equal(again.dense(), lowbit.fake_quantize(random(16, 64), spec))
    assert again.nbytes == weight.nbytes == quantizer(spec).nbytes((16, 64))


def test_a_sum_of_terms_reads_back():
    scheme = quantizer("int4 g32")
    terms = (
        scheme.quantize(random(16, 64)),
        LowRank(random(16, 2), random(2, 64)),
        Indexed(torch.tensor([3, 60]), random(16, 2), 1, (16, 64)),
    )
    weight = Weight(terms, (scheme, None, None))
    module = PackedWeight.of(weight)
    assert module.describe() == [{"kind": "quantized", "spec": "int4 g32"}, {"kind": "low rank"}, {"kind": "columns"}]
    again = PackedWeight.described(module.parts(), module.shape, module.describe())
    assert torch.equal(again.dense(), weight.dequantize())
    assert again.nbytes == scheme.nbytes((16, 64)) + 4 * (16 * 2 + 2 * 64) + 4 * 2 + 4 * 16 * 2


@pytest.mark.parametrize("spec", SPECS)
def test_the_state_dict_goes_through_a_file(model, spec):
    x = random(5, 64, seed=1)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    lowbit.quantize(model, spec)
    lowbit.quantize(other, spec)
    expected = model(x)
    assert not torch.equal(other(x), expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), expected)


def test_a_kept_dense_weight_changes_nothing_but_memory(model):
    x = random(5, 64, seed=1)
    lowbit.quantize(model, "nvfp4")
    keep_dense(model, False)
    expected = model(x)
    assert model[0].weight.kept is None
    keep_dense(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(x), model(x))
    assert model[0].weight.kept is not None
    keep_dense(model, False)
    assert model[0].weight.kept is None
    assert torch.equal(model(x), expected)


def test_what_is_kept_is_not_in_the_state_dict(model):
    lowbit.quantize(model, "int8")
    names = list(model.state_dict())
    model(random(5, 64))
    assert (
        list(model.state_dict()) == names == ["0.bias", "0.weight.codes", "0.weight.scale_codes", "2.weight.codes", "2.weight.scale_codes"]
    )


@pytest.mark.parametrize("convert", [nn.Module.bfloat16, nn.Module.half, nn.Module.double])
def test_converting_a_model_leaves_packed_bytes_alone(model, convert):
    lowbit.quantize(model, "int4 g32 scale=float32")
    before = [w.dense() for w in (model[0].weight, model[2].weight)]
    convert(model)
    for module, dense in zip((model[0].weight, model[2].weight), before, strict=True):
        assert module.scale.dtype == torch.float32
        assert torch.equal(module.dense(), dense)
    x = random(5, 64, seed=1).to(model[0].bias.dtype)
    assert model(x).dtype == x.dtype


def test_a_copy_is_its_own(model):
    lowbit.quantize(model, "nvfp4")
    x = random(5, 64, seed=1)
    expected, copied = model(x), copy.deepcopy(model)
    copied[0].weight.codes.zero_()
    keep_dense(copied, False)
    assert torch.equal(model(x), expected)
    assert not torch.equal(copied(x), expected)


@pytest.mark.skipif(extension("lowbit._cpu") is None, reason="lowbit._cpu was not built")
@pytest.mark.parametrize("spec", ["nvfp4", "int4 g32 asym", "ternary", "int8", "int3 g32", "hif4"])
@torch.no_grad()
def test_codes_are_held_once_and_come_back(spec):
    weight, x = packed(spec), random(3, 64, seed=1)
    before, nbytes, dense = {k: v.clone() for k, v in weight.state_dict().items()}, weight.nbytes, weight.dense()
    layer = Linear(weight)
    expected = layer(x)
    held = sum(b.numel() * b.element_size() for b in weight.buffers())
    assert held < nbytes == weight.nbytes or spec == "hif4"  # whose codes are folded with exponents
    after = weight.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)
    assert all(torch.equal(v, before[k.replace(".", "_")]) for k, v in weight.parts().items())
    assert torch.equal(weight.dense(), dense)
    for other in (copy.deepcopy(layer), layer):
        assert torch.equal(other(x), expected) and torch.equal(other.weight.codes, before["codes"])
    if spec != "hif4":
        layer.weight.codes.zero_()
        assert not torch.equal(layer(x), expected), "bytes that were handed out count"


def test_torch_functions_take_a_packed_weight_for_a_tensor():
    x, weight = random(3, 64, seed=1), packed()
    assert torch.equal(functional.linear(x, weight), functional.linear(x, weight.dense()))
    assert torch.equal(functional.linear(x, weight=weight, bias=None), functional.linear(x, weight.dense()))


@torch.no_grad()
def test_torch_attention_that_reads_its_weights_itself_goes_on_working():
    """The encoder layer has a fast path on the weights of its parts, and attention hands on ``out_proj.weight``."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    expected = copy.deepcopy(encoder)
    for layer in (expected.self_attn.out_proj, expected.linear1, expected.linear2):
        layer.weight.copy_(lowbit.fake_quantize(layer.weight, "int4 g32"))
    x = random(2, 5, 32)
    lowbit.quantize(encoder, "int4 g32")
    assert isinstance(encoder.self_attn.out_proj.weight, PackedWeight)
    torch.testing.assert_close(encoder(x), expected(x), rtol=1e-5, atol=1e-5)


def test_a_term_that_cannot_be_written_is_refused():
    tensor = quantizer("int8").quantize(random(4, 2))
    with pytest.raises(UnsupportedError, match="a low rank term with quantized parts"):
        PackedWeight.of(Weight((LowRank(tensor, random(2, 8)),)))
    with pytest.raises(UnsupportedError, match="a quantized term"):
        PackedWeight.of(Weight((tensor,)))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda parts, terms: parts.pop("codes"), CheckpointError, "'codes' is missing"),
        (lambda parts, terms: parts.pop("scale.scale"), CheckpointError, "'scale' is missing"),
        (lambda parts, terms: parts.update(codes=parts["codes"][:-1]), CheckpointError, "1024 codes of 4 bits take 512 bytes"),
        (lambda parts, terms: parts.update(more=torch.zeros(3)), CheckpointError, r"\['more'\] belong to none"),
        (lambda parts, terms: terms.append({"kind": "rows"}), CheckpointError, "term 1 is 'rows'"),
        (lambda parts, terms: terms.__setitem__(0, {"kind": "quantised", "spec": "nvfp4"}), CheckpointError, "term 0 is 'quantised'"),
        (lambda parts, terms: terms.__setitem__(0, {"kind": "quantized"}), CheckpointError, "this version cannot read that"),
        (lambda parts, terms: terms.__setitem__(0, {"kind": "quantized", "spec": "nvfp5"}), SpecError, "no quantizer or format"),
        (
            lambda parts, terms: terms.__setitem__(0, {"kind": "quantized", "spec": "int8"}),
            CheckpointError,
            "codes of 16 bits take 32 bytes",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(change, error, message):
    weight = packed()
    parts, terms = weight.parts(), weight.describe()
    change(parts, terms)
    with pytest.raises(error, match=message):
        PackedWeight.described(parts, weight.shape, terms)


def test_a_product_of_another_shape_is_named():
    with pytest.raises(CheckpointError, match=r"the part 'right' is \(2, 8\), a low rank term of \(4, 9\) needs \(2, 9\)"):
        PackedWeight.described({"left": random(4, 2), "right": random(2, 8)}, (4, 9), [{"kind": "low rank"}])


def test_a_code_that_the_format_does_not_have_is_named():
    weight = packed("ternary")
    parts = weight.parts()
    parts["codes"] = torch.full_like(parts["codes"], 0xFF)
    with pytest.raises(CheckpointError, match="holds code 3, ternary_element has 3 codes"):
        PackedWeight.described(parts, weight.shape, weight.describe())


@pytest.mark.parametrize("spec", ["int8 g32", "int8 row", "int8 g16 asym", "int6 g32"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_a_view_is_the_slice_and_the_bytes_stay(spec, bits):
    weight, x = packed(spec), random(3, 64, seed=1)
    layer, parts = Linear(weight), weight.parts()
    whole = layer(x)
    weight.view(bits)
    wanted = slice_tensor(quantizer(spec).quantize(random(16, 64)), bits).dequantize() if bits < weight.sliceable_bits() else weight.dense()
    assert torch.equal(weight.dense(), wanted)
    torch.testing.assert_close(layer(x), x @ wanted.T, rtol=1e-4, atol=1e-4)
    again = weight.parts()
    assert again.keys() == parts.keys() and all(torch.equal(again[k], parts[k]) for k in parts)
    assert weight.nbytes == quantizer(spec).nbytes((16, 64))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert all(torch.equal(layer.state_dict()[f"weight.{k.replace('.', '_')}"], v) for k, v in parts.items())
    weight.view(None)
    assert torch.equal(layer(x), whole)


@pytest.mark.skipif(extension("lowbit._cpu") is None, reason="lowbit._cpu was not built")
@pytest.mark.parametrize("bits", [2, 4])
def test_a_view_holds_one_bit_more_than_the_codes_and_reads_its_own_only(bits):
    weight = packed("int8 row", (64, 256))
    layer = Linear(weight, activations=quantizer("int8 scale=float32"))
    assert layer.route() == ("qlinear_int8", "")
    weight.view(bits)
    layout = weight.layout()
    assert layout.stored_bits == bits and layout.words.nbytes == 64 * 256 * bits // 8
    assert weight._rest.packed.nbytes == 64 * 256 * (9 - bits) // 8
    assert "codes" not in dict(weight.named_buffers())
    assert layer.route() == ("qlinear_int8", "")
    sliced = slice_tensor(quantizer("int8 row").quantize(random(64, 256)), bits)
    x = random(5, 256, seed=1)
    assert torch.equal(layer(x), reference.run(x, linear_spec(sliced)))


def test_models_are_seen_in_fewer_bits_and_refuse_by_name(model):
    x = random(5, 64, seed=1)
    lowbit.quantize(model, "int8 row", override={"2": "int4 g32"})
    before = model(x)
    with pytest.raises(UnsupportedError, match=r"layer 2: a view of 6 bits: a weight in int4 g32 has those of 1 to 4"):
        lowbit.nn.view(model, 6)
    assert torch.equal(model(x), before)
    assert lowbit.nn.view(model, 3) is model
    assert not torch.equal(model(x), before)
    assert "int8 seen in 3 bits" in repr(model[0].weight)
    assert torch.equal(lowbit.nn.view(model, None)(x), before)
    with pytest.raises(UnsupportedError, match="a weight in nvfp4 has none"):
        packed("nvfp4").view(4)
