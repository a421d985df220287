"""Which format, blocks, scaling and rounding go together; ``quantizer.py`` is the contract."""
