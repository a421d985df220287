"""What can go wrong, one class a cause. Every message is one line: what was wrong, with the value, and what would be right."""

from __future__ import annotations


class LowbitError(Exception):
    """Anything that a user's input caused. The command line prints the message and exits with code 2."""


class UnknownName(LowbitError):
    """A name that is not in the catalogue."""


class NameCollision(LowbitError):
    """Two things registered under one name."""


class SpecError(LowbitError):
    """A spec string that cannot be parsed; the message points at the place."""


class ShapeError(LowbitError):
    """A shape that does not fit: a block that does not divide, a matrix of the wrong size."""


class NonFiniteError(LowbitError):
    """NaN or Inf where numbers are needed."""


class DataError(LowbitError):
    """Text or calibration data that is missing, empty or too short."""


class ModelError(LowbitError):
    """A model that is not there or that cannot be read."""


class CheckpointError(LowbitError):
    """A checkpoint that is truncated, tampered with, foreign or of another layout version."""


class OutputError(LowbitError):
    """A place that cannot be written to."""


class MissingPackage(LowbitError):
    """An optional package that this call needs."""


class NoKernel(LowbitError):
    """No backend accepts the call; the message holds every refusal."""


class UnsupportedError(LowbitError):
    """Two parts that do not go together, with the reason."""
