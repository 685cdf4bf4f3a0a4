import inspect


def unchecked(function):
    """A function as users have it: in tests jaxtyping looks at the arguments first."""
    return inspect.unwrap(function)
