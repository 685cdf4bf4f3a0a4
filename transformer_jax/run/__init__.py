"""A run: its folder, its checkpoints, and what is done with them."""
