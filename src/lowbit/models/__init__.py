"""Where models come from; ``model.py`` is the contract."""
