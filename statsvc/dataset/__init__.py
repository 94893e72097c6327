"""A dataset as it is counted and read: configuration, splits, the table of counts, and its interpretation."""
