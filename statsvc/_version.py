"""The version of this package, importable without importing the public names in `statsvc`."""

__version__ = "0.1.0"
