"""Searches over a step function; they know no model.

    step(cache, tokens [N], parents [N] or None) -> (cache, logits [N, V])

`tokens` are those chosen last, `start_id` at first. Row i continues row parents[i] of the cache;
None means that each row continues itself.

A search turns the logits into log-probabilities over all V tokens and only then drops what is not
allowed: `allowed(cache) -> boolean [N, V] or [1, V]` is asked with the cache that the step
returned. So the log-probability of a token does not depend on what else is allowed, and equals what
scoring reports. A constraint is such a function, with a wrapper around the step where it needs a
state of its own.
"""
