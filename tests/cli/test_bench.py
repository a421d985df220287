"""lowbit bench: figures that fit together, notes where torch is faster, errors that name the value."""

import json

import pytest
import torch

import lowbit
from lowbit.cli.bench import slower, text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bench") / "q"
    lowbit.save(lowbit.quantize(lowbit.open_model("builtin"), "int4 g32"), place)
    return str(place)


def test_the_figures_fit_together(command, folder):
    before = torch.get_num_threads()
    done = command("bench", folder, "--prompt", "8", "--tokens", "4", "--rounds", "1", "--threads", "1", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert list(found["runs"]) == ["packed", "float32", "bfloat16"] and found["threads"] == 1
    assert torch.get_num_threads() == before
    for run in found["runs"].values():
        assert run["prefill"] > 0 and run["decode"] > 0
        assert run["bandwidth_share"] == pytest.approx(run["step_nbytes"] * run["decode"] / found["bandwidth"])
    model = lowbit.load(folder).module
    products = [m for n, m in model.named_modules() if isinstance(m, lowbit.nn.Linear)]
    assert found["operations"] == 2 * sum(m.in_features * m.out_features for m in products)
    packed = found["runs"]["packed"]["step_nbytes"]
    head = model.lm_head.weight.numel() * 4
    assert sum(m.weight.nbytes for m in products) < packed - head < 1.3 * sum(m.weight.nbytes for m in products)


def test_the_table_is_for_reading(command, folder):
    done = command("bench", folder, "--prompt", "4", "--tokens", "2", "--rounds", "1", "--against", "float32")
    assert done.code == 0 and "packed" in done.out and "torch float32" in done.out and "bfloat16" not in done.out
    assert "measured in this run" in done.out


def test_a_slower_format_is_said():
    run = {"prefill": 10.0, "decode": 5.0, "step_nbytes": 1, "bandwidth_share": 0.1, "peak_share": 0.1}
    found = {
        "runs": {"packed": run, "float32": run | {"prefill": 20.0, "decode": 4.0}}, "generation": "because", "threads": 1,
        "bandwidth": 1e9, "product_peak": 1e9, "prompt": 4, "tokens": 2,
    }  # fmt: skip
    assert slower(found) == ["prefill is slower than torch in float32: 10.0 against 20.0 tokens a second"]
    lines = text(found)[1]
    assert "note: generation runs module by module: because" in lines and lines[-1].startswith("note: prefill is slower")


@pytest.mark.parametrize("options, message", [
    (("--against", "int8"), "--against 'int8'; there are "),
    (("--prompt", "100000"), "100000 + 32 + 1 tokens are more than the "),
])  # fmt: skip
def test_what_is_wrong_is_named(command, folder, options, message):
    done = command("bench", folder, *options)
    assert done.code == 2 and message in done.err
