"""Scores of a model: loss and perplexity on text, BLEU and its relatives on translations."""
