"""Class ids and their names: class maps, built-in tables, color palettes."""
