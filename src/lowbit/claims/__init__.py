"""What papers state, as small experiments that can fail; ``claim.py`` is the contract."""
