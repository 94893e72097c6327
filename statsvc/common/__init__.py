"""Helpers without dependencies on other packages: durations, UTF-8 checks, changed paths, object URLs."""
