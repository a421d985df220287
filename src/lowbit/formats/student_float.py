"""Student float: 16 numbers at the quantiles of a t-distribution, built as NF4 is from the normal one."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

DOTZEL = Source(
    "Learning from Students: Applying t-Distributions to Explore Accurate and Efficient Formats for LLMs",
    "Dotzel et al.",
    2024,
    "arXiv:2405.03103",
    parts="the quantiles of a Student distribution, 5 degrees of freedom",
    departs="Ties go to the even code.",
)

#: t quantiles of 8 shares in [d, 1/2] and 9 in [1/2, 1 - d], d = (1/32 + 1/30) / 2, over the largest
sf4 = register("format", "sf4", DOTZEL, aliases=("student_float4",))(
    TableFormat(
        "sf4",
        (
            -1.0, -0.627780556678772, -0.45473599433898926, -0.3343307375907898,
            -0.23743437230587006, -0.15289871394634247, -0.07498246431350708, 0.0,
            0.06551307439804077, 0.13296473026275635, 0.20466101169586182, 0.28383469581604004,
            0.3758048415184021, 0.4910755753517151, 0.6567811369895935, 1.0,
        ),
    )
)  # fmt: skip
