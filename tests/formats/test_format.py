"""The contract: what is a format, and that the checks catch one that is not."""

import dataclasses

import pytest
import torch

from lowbit import catalog
from lowbit.formats.format import Format
from lowbit.formats.table import TableFormat
from lowbit.testing.formats import check_format


@pytest.mark.parametrize("entry", list(catalog.entries("format")), ids=lambda e: e.name)
def test_every_registered_format_is_one(entry):
    assert isinstance(entry.thing, Format) and entry.thing.name == entry.name


class Careless(TableFormat):
    """Right but for one thing, which is given by name."""


def broken(**changes):
    fmt = Careless("careless", (-2.0, -1.0, 0.0, 1.0, 2.0))
    for name, value in changes.items():
        object.__setattr__(fmt, name, value)
    return fmt


def test_the_checks_accept_it_when_nothing_is_changed():
    check_format(broken())


def test_a_wrong_maximum_is_found():
    fmt = broken()
    fmt.__dict__["step_at_top"] = 2.0
    with pytest.raises(AssertionError, match=r"careless.step_at_top is 2.0, its codes say 1.0"):
        check_format(fmt)


def test_codes_that_do_not_come_back_are_found():
    right = broken()
    fmt = broken(encode=lambda y, *a, **k: right.encode(y, *a, **k).clamp(max=3))
    with pytest.raises(AssertionError, match="careless: code 4 is 2, which is encoded as 3 = 1"):
        check_format(fmt)


def test_wrong_ties_are_found():
    right = dataclasses.replace(broken(), odd=(True, False, True, False, True))
    fmt = broken(encode=right.encode)
    with pytest.raises(AssertionError, match=r"careless, nearest_even, saturate, torch.float32: .* is encoded as \d, exactly it is \d"):
        check_format(fmt)


def test_a_rounding_that_moves_a_number_is_found():
    right = broken()

    def encode(y, rounding=None, *rest, **more):
        code = right.encode(y) if rounding is None else right.encode(y, rounding, *rest, **more)
        return torch.where((y == 1.0) & (str(rounding) == "up"), torch.full_like(code, 4), code)

    with pytest.raises(AssertionError, match="careless: up moves 1, which is a number of the format"):
        check_format(broken(encode=encode))
