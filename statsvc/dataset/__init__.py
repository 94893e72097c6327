"""A dataset's counts and how they are interpreted: configuration, splits, the table, and the class counts."""
