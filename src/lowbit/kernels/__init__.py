"""Operations over plain tensors in several implementations; ``op.py`` is the contract, ``grid_spec.py`` what they are told."""
