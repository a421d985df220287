"""Which codes a weight gets, given what the data say; ``solver.py`` is the contract."""
