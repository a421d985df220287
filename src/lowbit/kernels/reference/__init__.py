"""The definitions in torch."""
