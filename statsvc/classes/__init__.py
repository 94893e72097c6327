"""Class ids, names and colors: class maps, palettes, and tables of published datasets."""
