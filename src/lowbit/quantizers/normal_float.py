"""NF4 as QLoRA stores it: flat blocks of 64, their scales centred and kept in 8 bits over flat blocks of 256."""

from __future__ import annotations

from lowbit.blocks import Blocks
from lowbit.catalog import Source, register
from lowbit.formats.dynamic_tree import dynamic8
from lowbit.formats.normal_float import nf4 as element
from lowbit.quantizers.scheme import Scheme
from lowbit.scaling.absmax import absmax

QLORA = Source(
    "QLoRA: Efficient Finetuning of Quantized LLMs",
    "Dettmers, Pagnoni, Holtzman, Zettlemoyer",
    2023,
    "arXiv:2305.14314",
    parts="section 3 (4-bit NormalFloat, double quantization)",
    departs="The scales are stored in the 8-bit dynamic type of bitsandbytes, as its code does; the paper says FP8.",
)

nf4 = register("quantizer", "nf4", QLORA)(
    Scheme(
        element,
        Blocks(64, ragged=True),
        absmax,
        scale_quantizer=Scheme(dynamic8, Blocks(256, ragged=True), absmax, center=Blocks(None)),
    )
)
nf4_single = register("quantizer", "nf4_single", QLORA)(Scheme(element, Blocks(64, ragged=True), absmax))
