"""How large the unit of a block is; ``scaling.py`` is the contract."""
