"""Samples, and how to open them: files, members of containers, and objects."""
