"""The mean of what a layer gives stays where it was."""

import pytest
import torch
from torch import nn

import lowbit
from lowbit.data.text import Text
from lowbit.errors import UnsupportedError
from lowbit.recipes.calibration_data import calibration_source
from lowbit.recipes.plan import plan
from lowbit.recipes.restartable import quantize_restartably
from lowbit.recipes.walk import Source
from lowbit.solvers.bias_correction import BiasCorrection
from lowbit.solvers.signround import SignRound
from lowbit.solvers.solver import solver, text

WORDS = Text("words", "def f(x):\n    return x + 1\n" * 40)


def net(bias):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24, bias=bias), nn.ReLU(), nn.Linear(24, 8, bias=bias)).eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inner", ["rtn", "gptq"])
def test_means_of_outputs_are_those_of_the_original(bias, inner):
    samples = [torch.randn(1, 50, 16) + 2 for _ in range(4)]
    with torch.no_grad():
        expected = torch.cat([net(bias)[0](x) for x in samples]).flatten(0, 1).mean(0)
        plain, corrected = net(bias), net(bias)
        lowbit.quantize(plain, "int2 row", solver=inner, data=Source(samples, plain))
        lowbit.quantize(corrected, "int2 row", solver=f"bias_correction:inner={inner}", data=Source(samples, corrected))
        means = [torch.cat([m[0](x) for x in samples]).flatten(0, 1).mean(0) for m in (plain, corrected)]
    torch.testing.assert_close(means[1], expected, rtol=1e-3, atol=1e-4)
    assert float((means[0] - expected).abs().max()) > 0.01


def test_it_prints_and_parses_and_asks_for_what_both_need():
    value = solver("bias_correction:inner=(gptq:damping=0.1)")
    assert text(value) == "bias_correction:inner=(gptq:damping=0.1)"
    assert value.needs == ("gram", "moments")


@pytest.mark.parametrize("inner", [SignRound(), "qep"])
def test_two_streams_and_blocks_are_refused(inner):
    with pytest.raises(UnsupportedError, match="take rtn or gptq inside"):
        BiasCorrection(solver(inner))


@pytest.mark.parametrize("chain", [[], ["smoothquant"]])
def test_checkpoints_and_killed_runs_keep_the_biases(llama_folder, tmp_path, chain):
    def run(folder, stop=None):
        opened = lowbit.open_model(str(llama_folder(num_hidden_layers=3, tied=True, dtype="float32")))
        made = plan(opened.module, "int3 g16", "bias_correction", transforms=chain)
        source = calibration_source(opened, [made], [WORDS], 4, 32)

        def progress(event):
            if stop is not None and event.done == stop:
                raise KeyboardInterrupt

        return quantize_restartably(opened, made, folder, source, progress=progress)[0], opened

    whole, model = run(tmp_path / "whole")
    loaded, x = lowbit.load(tmp_path / "whole", keep=True), torch.arange(20)[None]
    assert "model.layers.1.mlp.down_proj.bias" in whole.tensors
    assert torch.equal(loaded.logits(x), model.logits(x))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", 2)
    assert run(tmp_path / "cut")[0].digest == whole.digest
    assert lowbit.save(loaded, tmp_path / "again").digest == whole.digest
