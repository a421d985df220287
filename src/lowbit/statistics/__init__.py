"""What is measured on data; ``statistic.py`` is the contract."""
