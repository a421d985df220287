"""The roundings of IEEE 754, worked by hand on e2m1, and on the line of all integers."""

import math

import pytest
import torch

from lowbit import catalog
from lowbit.formats.minifloat import float4_e2m1fn
from lowbit.formats.table import TableFormat
from lowbit.quantizers.grid import round_to_integers
from lowbit.rounding.ieee754 import away_from_zero, down, nearest_away, nearest_even, toward_zero, up
from lowbit.rounding.rounding import Gap

#        every midpoint of e2m1:  0 - .5   .5 - 1  1 - 1.5  1.5 - 2  2 - 3  3 - 4  4 - 6
MIDPOINTS = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])


@pytest.mark.parametrize(
    "rounding, expected",
    [
        (nearest_even, [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]),
        (nearest_away, [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]),
        (toward_zero, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]),
        (away_from_zero, [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]),
    ],
)
def test_midpoints_on_both_sides_of_zero(rounding, expected):
    for sign in (1, -1):
        got = float4_e2m1fn.decode(float4_e2m1fn.encode(sign * MIDPOINTS, rounding))
        assert got.tolist() == [sign * v for v in expected]


def test_up_and_down_mirror_each_other():
    upward = float4_e2m1fn.decode(float4_e2m1fn.encode(MIDPOINTS, up))
    assert upward.tolist() == [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert torch.equal(float4_e2m1fn.decode(float4_e2m1fn.encode(-MIDPOINTS, down)), -upward)
    assert float4_e2m1fn.decode(float4_e2m1fn.encode(-MIDPOINTS, up)).tolist() == [-0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0]


def test_a_hair_decides():
    """A float32 neighbour of a midpoint is nearer to one side; one of a number leaves it under directed roundings."""
    for side, nearest in ((math.inf, [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]), (-math.inf, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0])):
        y = torch.nextafter(MIDPOINTS, torch.tensor(side))
        for rule in (nearest_even, nearest_away):
            assert float4_e2m1fn.decode(float4_e2m1fn.encode(y, rule)).tolist() == nearest
    y = torch.nextafter(torch.tensor([1.0, 1.0]), torch.tensor([math.inf, -math.inf]))
    assert float4_e2m1fn.decode(float4_e2m1fn.encode(y, up)).tolist() == [1.5, 1.0]
    assert float4_e2m1fn.decode(float4_e2m1fn.encode(y, down)).tolist() == [1.0, 0.5]


def test_a_gap_around_zero_without_a_zero_goes_by_the_sign():
    fmt = TableFormat("signs", (-3.0, -1.0, 1.0, 3.0))
    y = torch.tensor([-0.5, -1e-45, 0.0, 1e-45, 0.5])
    assert fmt.decode(fmt.encode(y, toward_zero)).tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]
    assert fmt.decode(fmt.encode(y, nearest_away)).tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]
    assert fmt.decode(fmt.encode(y, away_from_zero)).tolist() == [-1.0, -1.0, -1.0, 1.0, 1.0]


@pytest.mark.parametrize("rule", [nearest_even, nearest_away])
def test_the_smallest_number_above_a_midpoint_of_zero_is_above_it(rule):
    """-1 and 1 have the midpoint 0; in float32, 1e-45 + 1 is 1, which would look like a tie."""
    one = torch.ones(2)
    gap = Gap(torch.tensor([1e-45, -1e-45]), -one, one, torch.tensor([False, True]))
    assert rule(gap).tolist() == [True, False]


@pytest.mark.parametrize("name", ["nearest_even", "nearest_away", "toward_zero", "away_from_zero", "up", "down", "to_odd"])
def test_the_line_of_all_integers(name):
    """round_to_integers is the rounding of a format that holds every integer."""
    whole = TableFormat("many", tuple(range(-40, 41)), odd=tuple(bool(k % 2) for k in range(-40, 41)))
    y = torch.linspace(-39, 39, 78 * 16 + 1)
    y = torch.cat((y, torch.nextafter(y, torch.tensor(99.0)), torch.nextafter(y, torch.tensor(-99.0))))
    rule = catalog.find("rounding", name)
    assert torch.equal(round_to_integers(y, rule), whole.decode(whole.encode(y, rule)))


def test_names_and_aliases():
    assert catalog.find("rounding", "rne") is nearest_even and catalog.find("rounding", "rtz") is toward_zero
    assert [str(r) for r in (nearest_even, nearest_away, up)] == ["nearest_even", "nearest_away", "up"]
