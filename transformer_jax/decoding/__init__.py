"""Searches over a step function; they know no model.

    step(cache, tokens [N], parents [N] or None) -> (cache, logits [N, V])

`tokens` are those chosen last, `start_id` at first. Row i goes on from row parents[i] of the
cache; None means each row from itself.

A search makes log-probabilities of the logits, over all V, and only then leaves out what is not
allowed: `allowed(cache) -> boolean [N, V] or [1, V]`, asked of the cache that the step returned. So
what a token costs does not depend on what else is allowed, and equals what scoring says. A
constraint is such a function, with a wrapper around the step where it must remember something.
"""
