"""Searches over a step function; they know no model.

    step(cache, tokens [N], parents [N] or None) -> (cache, logits [N, V])

`tokens` are those chosen last, `start_id` at first. Row i goes on from row parents[i] of the
cache; None means each row from itself. A constraint is a wrapper around a step.
"""
