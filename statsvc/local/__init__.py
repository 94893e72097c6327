"""Counting without a server: `statsvc.scan`, `statsvc.calculate_class_weights` and the demo data."""
