"""What a model has lost: perplexity, divergence, size, time."""
