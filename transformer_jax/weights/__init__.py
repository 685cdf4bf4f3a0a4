"""Weights of other toolkits, in and out."""
