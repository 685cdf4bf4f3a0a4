"""Text, vocabularies, prepared corpora and batches. Imports no jax."""
