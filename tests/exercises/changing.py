"""How a wrong solution is made of a right one."""


def changed(kind, **methods):
    """A class of that name with other methods."""
    return type(kind.__name__, (kind,), methods)
