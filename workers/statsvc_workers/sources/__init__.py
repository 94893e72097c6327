"""Sources of label maps: find, list and watch them, and compare a listing with the current version."""
