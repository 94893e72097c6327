"""Small helpers without dependencies on the rest of statsvc: durations, UTF-8 checks, paths, object URLs."""
