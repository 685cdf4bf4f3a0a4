"""The embedded corpus: an English-German synchronous grammar written for this project."""
