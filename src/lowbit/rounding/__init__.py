"""Which of the two neighbours of a number is taken; ``rounding.py`` is the contract."""
