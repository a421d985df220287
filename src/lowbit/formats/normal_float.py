"""NormalFloat: 16 numbers that a normal variable meets about equally often, zero among them."""

from __future__ import annotations

from lowbit.catalog import Source, register
from lowbit.formats.table import TableFormat

QLORA = Source(
    "QLoRA: Efficient Finetuning of Quantized LLMs",
    "Dettmers, Pagnoni, Holtzman, Zettlemoyer",
    2023,
    "arXiv:2305.14314",
    parts="section 3 (4-bit NormalFloat), appendix E (the numbers)",
    departs="Ties go to the even code.",
)

nf4 = register("format", "nf4_element", QLORA, aliases=("normal_float4",))(
    TableFormat(
        "nf4_element",
        (
            -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
            -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
            0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
            0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
        ),
    )
)  # fmt: skip
