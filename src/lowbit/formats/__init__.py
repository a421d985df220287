"""Which numbers exist, and their bits; ``format.py`` is the contract, ``table.py`` the ordinary implementation."""
