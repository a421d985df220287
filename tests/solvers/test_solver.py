"""Solvers print as spec strings that parse back; what does not parse is named."""

from dataclasses import dataclass, fields

import pytest
import torch

from lowbit import catalog
from lowbit.catalog import Source, register
from lowbit.errors import SpecError, UnknownName
from lowbit.philox import Key
from lowbit.quantizers.spec import quantizer
from lowbit.solvers.rtn import RTN
from lowbit.solvers.solver import Solver, solver, text

NOWHERE = Source("A test", "nobody", 2026, "here")


@dataclass(frozen=True)
class Tuned(Solver):
    """Has a parameter of every kind."""

    share: float = 0.5
    rounds: int = 3
    twice: bool = False
    order: str = "none"
    inner: Solver = RTN()

    def solve(self, W, quantizer, stats, key):
        return self.inner.solve(W * self.share, quantizer, stats, key)


@pytest.fixture
def tuned(kept_catalogue):
    return register("solver", "tuned", NOWHERE, aliases=("tooned",))(Tuned)


def test_every_registered_solver_has_a_spec_string_and_defaults():
    for entry in catalog.entries("solver"):
        value = solver(entry.name)
        assert type(value) is entry.thing
        assert text(value) == entry.name
        assert isinstance(value.needs, tuple)


def test_a_solver_is_returned_as_it_is():
    value = RTN()
    assert solver(value) is value


@pytest.mark.parametrize(
    "spec, value",
    [
        ("tuned", Tuned()),
        ("tuned:share=0.25", Tuned(share=0.25)),
        ("tuned:rounds=-7:twice=true", Tuned(rounds=-7, twice=True)),
        ("tuned:order=act", Tuned(order="act")),
        ("tuned:order=(re:a.*)", Tuned(order="re:a.*")),
        ("tuned:share=1e-09", Tuned(share=1e-9)),
        ("tuned:inner=tuned", Tuned(inner=Tuned())),
        ("tuned:rounds=4:inner=(tuned:rounds=5:inner=(tuned:rounds=6))", Tuned(rounds=4, inner=Tuned(rounds=5, inner=Tuned(rounds=6)))),
    ],
)
def test_specs_parse_and_print_back(tuned, spec, value):
    assert solver(spec) == value
    assert text(value) == spec


def test_what_the_default_says_is_left_out(tuned):
    assert text(solver("tooned:share=0.5:twice=false")) == "tuned"


@pytest.mark.parametrize(
    "spec, error, message",
    [
        ("tunned", UnknownName, r"no solver is called 'tunned'; did you mean 'tuned'\?"),
        ("zzzzzz", UnknownName, "no solver is called 'zzzzzz'; `lowbit list` prints every name"),
        ("", UnknownName, "no solver is called ''"),
        ("tuned:rate=3", SpecError, "solver tuned has no parameter 'rate=3'; write name=value with share, rounds, twice, order, inner"),
        ("tuned:share", SpecError, "solver tuned has no parameter 'share'"),
        ("tuned:", SpecError, "solver tuned has no parameter ''"),
        ("rtn:damping=1", SpecError, "solver rtn has no parameter 'damping=1'; it takes none"),
        ("tuned:share=half", SpecError, "tuned:share=half: 'half' does not fit, the default is 0.5"),
        ("tuned:rounds=1.5", SpecError, "tuned:rounds=1.5: '1.5' does not fit, the default is 3"),
        ("tuned:twice=yes", SpecError, "tuned:twice=yes: 'yes' does not fit, the default is false"),
        ("tuned:share=1:share=1", SpecError, "solver tuned: share is given twice"),
        ("tuned:inner=(tunned)", UnknownName, r"no solver is called 'tunned'; did you mean"),
        ("tuned:inner=(tuned:share=x)", SpecError, "tuned:share=x: 'x' does not fit"),
        ("tuned:inner=(tuned", SpecError, "the parentheses of the solver .* do not match"),
        ("tuned)", SpecError, "do not match"),
    ],
)
def test_what_does_not_parse_is_named_in_one_line(tuned, spec, error, message):
    with pytest.raises(error, match=message) as caught:
        solver(spec)
    assert "\n" not in str(caught.value)


def test_a_solver_that_is_not_registered_has_no_words():
    with pytest.raises(SpecError, match="Tuned is not registered, so it has no spec string"):
        text(Tuned())


def test_solvers_are_frozen_values():
    for entry in catalog.entries("solver"):
        value = solver(entry.name)
        assert value == solver(entry.name)
        assert hash(value) == hash(solver(entry.name))
        for field in fields(value):
            with pytest.raises(AttributeError):
                setattr(value, field.name, None)


def test_a_solver_leaves_the_weight_as_it_is():
    W = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    before = W.clone()
    for entry in catalog.entries("solver"):
        if not entry.thing.needs:
            weight = solver(entry.name).solve(W, quantizer("int4 g32"), {}, Key())
            assert tuple(weight.shape) == (8, 64)
            assert torch.equal(W, before)
