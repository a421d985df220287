"""Changes of basis that keep what a model computes and make its numbers easier to quantize; ``transform.py`` is their contract."""
