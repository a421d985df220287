"""The built-in model: a byte-level Llama of 4M parameters, and the text it was never trained on.

``model.safetensors`` (bfloat16), ``config.json``, ``heldout.txt`` (UTF-8; byte 0 begins each document) and
``training.json`` are what ``scripts/train_builtin.py`` wrote. The text is Python's own source code:
``heldout.LICENSE.txt`` is its licence.
"""
