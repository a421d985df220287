"""Keys and values of attention in few bits; ``kv_cache.py`` is the contract."""
