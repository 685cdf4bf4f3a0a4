"""Programs that start others; above everything but the command line."""
