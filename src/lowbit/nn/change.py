"""Changes of basis inside a model: the part of them that is computed each time, in front of a layer or after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from lowbit import catalog
from lowbit.errors import CheckpointError
from lowbit.transforms.transform import KINDS, Change

Side = Literal["input", "output"]

#: the name of the submodule that holds a layer's changes
CHILD = "change"


class Changes(nn.Module):
    """One change after the other, on the inputs of a layer or on what it gives.

    Args:
        side: where.
        dim: the axis of the channels.
    """

    def __init__(self, side: Side, dim: int):
        super().__init__()
        self.side: Side = side
        self.dim = dim
        self.kinds: list[str] = []

    def add(self, change: Change) -> None:
        """A further change."""
        for part, tensor in change.parts().items():
            self.register_buffer(f"{len(self.kinds)}_{part}", tensor)
        self.kinds.append(change.kind)

    def changes(self) -> Iterator[Change]:
        """The changes in order, on the tensors that the module holds."""
        for i, name in enumerate(self.kinds):
            prefix = f"{i}_"
            yield KINDS[name](**{b.removeprefix(prefix): t for b, t in self.named_buffers() if b.startswith(prefix)})

    def forward(self, x: Tensor) -> Tensor:
        """x with the changes."""
        y = x if self.dim == -1 else x.movedim(self.dim, -1)
        for change in self.changes():
            y = change.online(y)
        return y if self.dim == -1 else y.movedim(-1, self.dim)

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """As a hook in front of a layer."""
        return (self(args[0]), *args[1:])

    def after(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        """As a hook after a layer."""
        return self(out)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"{self.side}, {' then '.join(self.kinds)}"


def channel_dim(module: nn.Module) -> int:
    """The axis of a layer's channels in what it reads and gives."""
    return 1 if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm) or hasattr(module, "kernel") else -1


def attach(module: nn.Module, change: Change, side: Side = "input") -> None:
    """Have a change computed on what a module reads, or on what it gives, after those that are there."""
    held = attached(module)
    if held is None:
        held = Changes(side, channel_dim(module))
        _hook(module, held)
    held.add(change)


def attached(module: nn.Module) -> Changes | None:
    """The changes of a module."""
    held = module._modules.get(CHILD)
    return held if isinstance(held, Changes) else None


def detach(module: nn.Module) -> Changes | None:
    """Take the changes off a module."""
    held = attached(module)
    if held is not None:
        del module._modules[CHILD]
        hooks: Any = module._forward_pre_hooks if held.side == "input" else module._forward_hooks
        for key, hook in list(hooks.items()):
            if getattr(hook, "__self__", None) is held:
                del hooks[key]
    return held


def hand_over(old: nn.Module, new: nn.Module) -> None:
    """The module that takes a layer's place gets its changes."""
    held = attached(old)
    if held is not None and attached(new) is None:
        _hook(new, held)


def _hook(module: nn.Module, held: Changes) -> None:
    module.add_module(CHILD, held)
    if held.side == "input":
        module.register_forward_pre_hook(held.before)
    else:
        module.register_forward_hook(held.after)


def describe(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Every module that has changes: their side, kinds and the shapes of their tensors, as stored in a checkpoint."""
    found = {}
    for name, module in model.named_modules():
        held = attached(module)
        if held is not None:
            shapes = {b: list(t.shape) for b, t in held.named_buffers()}
            found[name] = {"side": held.side, "kinds": list(held.kinds), "parts": shapes}
    return found


def described(module: nn.Module, facts: Mapping[str, Any], parts: Mapping[str, Tensor]) -> None:
    """Attach the changes that ``describe`` told of.

    Raises:
        CheckpointError: the description cannot be what it should be.
    """
    catalog.load("transform")
    try:
        if facts["side"] not in ("input", "output") or not facts["kinds"]:
            raise ValueError(f"side {facts['side']!r}, kinds {facts['kinds']}")
        for i, name in enumerate(facts["kinds"]):
            own = {b.removeprefix(f"{i}_"): parts[b] for b in facts["parts"] if b.startswith(f"{i}_")}
            change = KINDS[name](**own)
            if any(list(t.shape) != list(facts["parts"][f"{i}_{part}"]) for part, t in own.items()):
                raise ValueError(f"parts of the shapes {facts['parts']}")
            attach(module, change, facts["side"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the changes of a {type(module).__name__} are described by {dict(facts)}: {error}") from error
