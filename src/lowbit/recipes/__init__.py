"""Model in, model out: what is done to which layer, in what order."""
