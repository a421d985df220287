"""What every test runs under: its share of the processors, repeatable examples, no network, data sets beside the checkout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import settings

from lowbit import catalog
from lowbit.cli.main import run

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))

# the same examples at every run; deadlines would fail on a busy machine
settings.register_profile("lowbit", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("lowbit")


class Finished(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Run the command line in this process: ``command("list", "--json").out``."""

    def call(*arguments: str) -> Finished:
        capsys.readouterr()
        code = 0
        try:
            run(arguments)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return Finished(code, *capsys.readouterr())

    return call


@pytest.fixture
def kept_catalogue() -> Iterator[None]:
    """What a test registers is taken out again."""
    for kind in catalog.FAMILIES:
        catalog.load(kind)
    entries, names = dict(catalog._entries), dict(catalog._names)
    yield
    for current, before in ((catalog._entries, entries), (catalog._names, names)):
        current.clear()
        current.update(before)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of data sets, named by LOWBIT_DATA; tests that need it skip where it is absent."""
    folder = os.environ.get("LOWBIT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("LOWBIT_DATA names no folder with data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a random Llama of Hugging Face with a byte-level tokenizer: ``llama_folder(tied=True, dtype="bfloat16", shard="40KB")``.

    Calls with the same arguments share a folder; tests that write into it take a copy.
    """
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    transformers.logging.disable_progress_bar()
    made: dict[str, Path] = {}

    def make(*, tied: bool = False, dtype: str = "float32", shard: str = "1GB", **changes: Any) -> Path:
        key = json.dumps([tied, dtype, shard, changes], sort_keys=True)
        if key in made:
            return made[key]
        sizes = {
            "vocab_size": 260, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
        }  # fmt: skip
        config = transformers.LlamaConfig(**(sizes | changes), tie_word_embeddings=tied, bos_token_id=256, eos_token_id=257)
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
        model.generation_config.repetition_penalty = 1.25
        folder = tmp_path_factory.mktemp("llama")
        model.save_pretrained(folder, max_shard_size=shard)
        byte_level = tokenizers.pre_tokenizers.ByteLevel
        letters = {letter: i for i, letter in enumerate(sorted(byte_level.alphabet()))}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=letters, merges=[]))
        tokenizer.pre_tokenizer = byte_level(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        tokenizer.add_special_tokens(["<s>", "</s>", "<user>", "<model>"])
        template = "{% for m in messages %}<user>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=template)
        fast.save_pretrained(folder)
        made[key] = folder
        return folder

    return make
