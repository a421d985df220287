"""Our own files: what is written, and how it is read back."""
