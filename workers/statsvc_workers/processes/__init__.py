"""Processes that the kernel ends with their parent, and that read files which may crash a library."""
