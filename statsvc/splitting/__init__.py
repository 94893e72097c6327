"""Division of a dataset into stratified parts, and choice of a subset, from the counts alone."""
