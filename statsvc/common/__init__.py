"""Helpers without dependencies on other packages: durations, UTF-8, changed paths, URLs, plain values."""
