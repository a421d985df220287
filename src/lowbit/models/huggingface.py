"""Causal language models of Hugging Face transformers: by hub id, by folder, or from a GGUF file."""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lowbit.errors import DataError, MissingPackage, ModelError
from lowbit.kv_cache.kv_cache import CHUNK, KVCache, Store, text
from lowbit.models.generation import decoding_loop, fused
from lowbit.models.model import device_of
from lowbit.nn.decoder import FusedDecoder
from lowbit.nn.experts import unstack

FLATTERED = (
    "its weights come from a GGUF file with blocks of 32 on a {} grid: "
    "integers of 4 bits in the same blocks look better than on an original"
)


def transformers() -> ModuleType:
    """The package, imported when first needed.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        found = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise MissingPackage("Hugging Face models need transformers; pip install 'lowbit[hf]'") from error
    found.logging.set_verbosity_error()
    found.logging.disable_progress_bar()
    return found


class HuggingFace:
    """A causal language model with its tokenizer, chat template and generation settings.

    Attributes:
        notes: what to know about its figures.
    """

    kind = "huggingface"
    usual_text = "pydoc"

    def __init__(self, name: str, module: Any, tokenizer: Any, notes: tuple[str, ...] = ()):
        self.name = name
        self.module: nn.Module = unstack(module)
        self.tokenizer = tokenizer
        self.context = int(getattr(module.config.get_text_config(), "max_position_embeddings", 2048))
        self.notes = notes
        self.kv: KVCache | None = None
        self._fused: FusedDecoder | str = "not looked for yet"

    @classmethod
    def load(cls, name: str, device: str = "cpu", dtype: torch.dtype | None = None) -> HuggingFace:
        """A model by hub id, folder or GGUF file, in float32 unless said otherwise.

        Raises:
            ModelError: there is no such model, or it cannot be read.
            MissingPackage: transformers (or gguf) is not installed.
        """
        hf = transformers()
        path = Path(name)
        notes: tuple[str, ...] = ()
        options: dict[str, Any]
        if path.suffix == ".gguf":
            notes = _gguf_notes(path)
            place, options = str(path.parent), {"gguf_file": path.name}
        elif path.is_dir():
            if not (path / "config.json").is_file():
                raise ModelError(f"the folder {name} holds no config.json, so it is no Hugging Face model")
            place, options = name, {}
        elif path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ModelError(f"there is no model at {name!r}; give a folder, a .gguf file, a hub id or 'builtin'")
        else:
            place, options = name, {"local_files_only": _only_cached(name)}
        with _loading(f"the tokenizer of the model {name!r}"):
            tokenizer = hf.AutoTokenizer.from_pretrained(place, **options)
        with _loading(f"the model {name!r}"), redirect_stderr(io.StringIO()) if "gguf_file" in options else nullcontext():  # its own bar
            module, found = hf.AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype or torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        notes += _check_found(name, found)
        for config in (module.config, module.config.get_text_config()):
            if hasattr(config, "quantization_config"):
                del config.quantization_config
        module.hf_quantizer = None
        module.is_quantized = False
        return cls(name, module.to(device).eval(), tokenizer, notes)

    @classmethod
    def empty(cls, folder: Path, name: str | None = None) -> HuggingFace:
        """The model of a folder's configuration without its weights: parameters are on the meta device, buffers are real.

        Raises:
            ModelError: the configuration or the tokenizer cannot be read.
        """
        hf = transformers()
        with _loading(f"the configuration in {str(folder)!r}"):
            config = hf.AutoConfig.from_pretrained(folder)
            with _parameters_on_meta():
                module = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            if (folder / "generation_config.json").is_file():
                module.generation_config = hf.GenerationConfig.from_pretrained(folder)
        with _loading(f"the tokenizer in {str(folder)!r}"):
            tokenizer = hf.AutoTokenizer.from_pretrained(folder)
        return cls(name or str(folder), module.eval(), tokenizer)

    def tie(self) -> None:
        """Tie what the configuration ties, unless one side has been quantized on its own."""
        if all(isinstance(getattr(m, "weight", None), Tensor) for m in (self._head(), self._table()) if m is not None):
            self.module.tie_weights()  # type: ignore[operator]

    def _head(self) -> nn.Module | None:
        return self.module.get_output_embeddings()  # type: ignore[operator, no-any-return]

    def _table(self) -> nn.Module | None:
        return self.module.get_input_embeddings()  # type: ignore[operator, no-any-return]

    def encode(self, text: str) -> Tensor:
        return self.tokenizer(text, return_tensors="pt", add_special_tokens=False, verbose=False).input_ids[0]  # type: ignore[no-any-return]

    def decode(self, ids: Tensor) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)  # type: ignore[no-any-return]

    def logits(self, ids: Tensor) -> Tensor:
        ids = ids.to(device_of(self.module))
        with torch.no_grad():
            if self.kv is None:
                return self.module(input_ids=ids, use_cache=False).logits.float()  # type: ignore[no-any-return]
            cache = quantized_cache(self.kv, self.module.config)
            parts = [self.module(input_ids=part, past_key_values=cache, use_cache=True).logits.float() for part in ids.split(CHUNK, 1)]
            return torch.cat(parts, 1)

    def generate(self, prompt: str, max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0, chat: bool = False) -> str:
        if chat:
            if not getattr(self.tokenizer, "chat_template", None):
                raise DataError(f"{self.name} has no chat template; leave out --chat")
            message = [{"role": "user", "content": prompt}]
            prompt = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat).input_ids
        if ids.numel() == 0:
            raise DataError("an empty prompt; give at least one character")
        return self.decode(self.extend(ids, max_new_tokens, temperature, seed)[0, ids.shape[1] :])

    def extend(self, ids: Tensor, count: int, temperature: float = 0.0, seed: int = 0, *, to_the_end: bool = False) -> Tensor:
        """Tokens (1, prompt) to tokens (1, prompt + at most ``count``); greedy at temperature 0, ``to_the_end`` goes past the end token."""
        torch.manual_seed(seed)
        ids = ids.to(device_of(self.module))
        options: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        options |= {"min_new_tokens": count} if to_the_end else {}
        options |= {} if self.kv is None else {"past_key_values": quantized_cache(self.kv, self.module.config)}
        decoder = self.fused()
        if isinstance(decoder, FusedDecoder) and ids.shape[1] + count <= decoder.positions and len(ids) == 1 and self._steps_alone():
            options["custom_generate"] = decoding_loop(decoder)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.module.generate(  # type: ignore[operator, no-any-return]
                ids, max_new_tokens=count, attention_mask=torch.ones_like(ids), **options
            )

    def fused(self) -> FusedDecoder | str:
        if self.kv is not None:
            return f"its keys and values are kept in {text(self.kv)}"
        self._fused = fused(self._fused, self.module, self.logits)
        return self._fused

    def _steps_alone(self) -> bool:
        """Whether the model's settings ask for one token after another, not for beams or a second model."""
        return str(self.module.generation_config.get_generation_mode().value) in ("greedy_search", "sample")  # type: ignore[union-attr, operator]

    def save_assets(self, folder: Path) -> None:
        self.module.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
        try:
            self.tokenizer.save_pretrained(folder)
        except Exception as error:  # tokenizers says what the system said, in an exception of no type of its own
            if isinstance(error, OSError) or "os error" not in str(error):
                raise
            raise OSError(errno.EIO, str(error)) from error
        settings = getattr(self.module, "generation_config", None)
        if settings is not None:
            settings.save_pretrained(folder)


def quantized_cache(kept: KVCache, config: Any) -> Any:
    """A cache of transformers that holds keys and values as ``kept`` says; layers that slide are masked, not cut off.

    Raises:
        ShapeError: the blocks of a quantizer do not divide its groups of tokens.
    """
    caches = transformers().cache_utils
    inner = config.get_text_config(decoder=True)
    heads = int(inner.num_attention_heads)
    kept.check(int(getattr(inner, "head_dim", None) or inner.hidden_size // heads), int(inner.num_hidden_layers))

    class Layer(caches.DynamicLayer):  # type: ignore[name-defined, misc]
        def __init__(self, store: Store):
            super().__init__()
            self.store = store

        def update(self, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            self.is_initialized = True
            return self.store.append(k, v)

        def get_seq_length(self, *args: Any) -> int:
            return self.store.length

    return caches.Cache(layers=[Layer(kept.store(i)) for i in range(int(inner.num_hidden_layers))])


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Turn whatever transformers and the model's own code meet in a damaged file into a ModelError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        raise ModelError(f"{what} cannot be loaded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line of an error, with the next where it ends in a colon, and the kind of error where it alone says little."""
    lines = [*(line.strip() for line in str(error).strip().splitlines()), "", ""]
    first = f"{lines[0]} {lines[1]}" if lines[0].endswith(":") else lines[0]
    return first if isinstance(error, OSError | ValueError) and first else f"{type(error).__name__} {first}".strip()


def _check_found(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """A note on tensors that the files hold for nothing.

    Raises:
        ModelError: tensors that the files lack, or that have another shape; they would be random.
    """
    missing, wrong, unused = (sorted(found.get(key, ())) for key in ("missing_keys", "mismatched_keys", "unexpected_keys"))
    if wrong:
        tensor, stored, needed = wrong[0]
        raise ModelError(f"the model {name!r}: {tensor} is {tuple(stored)} in the file, its configuration asks for {tuple(needed)}")
    if missing:
        raise ModelError(
            f"the files of the model {name!r} lack {len(missing)} tensors that its configuration asks for, the first is {missing[0]}"
        )
    return (f"{len(unused)} tensors of its files are not used, the first is {unused[0]}",) if unused else ()


def _only_cached(name: str) -> bool:
    """Whether a model of the hub can only be had from this computer's cache.

    Raises:
        ModelError: the hub has no such model, or it is not in the cache and the hub cannot be reached.
    """
    hub = importlib.import_module("huggingface_hub")
    hub.utils.logging.set_verbosity_error()
    meant = "; did you mean 'builtin'?" if difflib.get_close_matches(name, ["builtin"]) else ""
    try:
        hub.HfApi().model_info(name, timeout=10)
    except hub.errors.RepositoryNotFoundError as error:
        raise ModelError(f"there is no folder {name!r}, and the Hugging Face hub has no public model of that name{meant}") from error
    except hub.errors.HFValidationError as error:
        raise ModelError(f"there is no folder {name!r}, and it is no name of a model: {_reason(error)}") from error
    except Exception as error:  # the client's own errors differ between its versions
        if not isinstance(hub.try_to_load_from_cache(name, "config.json"), str):
            raise ModelError(f"there is no folder {name!r}, and the Hugging Face hub cannot be asked ({_reason(error)}){meant}") from error
        return True
    return False


def _gguf_notes(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise ModelError(f"there is no file {str(path)!r}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{str(path)!r} does not start with the letters GGUF, so it is no GGUF file")
    try:
        gguf = importlib.import_module("gguf")
    except ModuleNotFoundError as error:
        raise MissingPackage("GGUF files need the package gguf; pip install 'lowbit[hf]'") from error
    try:
        kinds = {t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    except Exception as error:  # whatever the reader meets in a damaged file
        raise ModelError(f"{str(path)!r} is truncated or damaged ({_reason(error)}); copy it again") from error
    coarse = sorted(kinds - {"F32", "F16", "BF16"})
    return (FLATTERED.format("/".join(coarse)),) if coarse else ()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules made inside get their parameters on the meta device; buffers stay real, since nothing else would fill them."""
    original = nn.Module.register_parameter

    def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        original(self, name, param)

    nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]
