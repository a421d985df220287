"""A format is a table: 31 numbers, denser around zero. Try: lowbit --plugin my_format.py show "my5 g32"."""

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

SOURCE = Source("Thirty-one numbers for weights", "Your Name", 2026, "unpublished", parts="the table")

numbers = [(abs(i) / 15) ** 1.25 * (1 if i > 0 else -1) for i in range(-15, 16)]
my5 = register("format", "my5", SOURCE)(TableFormat("my5", tuple(numbers)))
