"""Flax Linen modules: they declare parameters and call `functional`."""
