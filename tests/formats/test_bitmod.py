"""BitMoD's value sets: the base numbers, and one special number each."""

from lowbit.formats.bitmod import bitmod3, bitmod4


def test_each_table_is_the_base_and_one_special_number():
    for fmt, base, specials in ((bitmod4, {0, 0.5, 1, 1.5, 2, 3, 4, 6}, (5, -5, 8, -8)), (bitmod3, {0, 1, 2, 4}, (3, -3, 6, -6))):
        signed = base | {-v for v in base}
        for table, special in zip((fmt.values, *fmt.alternatives), specials, strict=True):
            assert set(table) - signed == {special} and set(table) | signed == signed | {special}
        assert fmt.tops() == tuple(max(max(base), abs(s)) for s in specials)
