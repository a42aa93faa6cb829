"""Settings that had other names in version 0.1: they are understood, and read from its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from operator import attrgetter


def renamed(names: Mapping[str, str]) -> Callable[[type], type]:
    """A decorator of a method's class: with `@renamed({"old": "new"})` it takes `old=` for `new=`.

    The setting can be read by its old name as well. `Method.from_settings` knows both.

    Raises:
        TypeError: when a method is made with both names of one setting.
    """

    def decorate(cls: type) -> type:
        original = cls.__init__

        @wraps(original)
        def init(self, *args, **settings) -> None:
            for old, new in names.items():
                if old in settings and new in settings:
                    raise TypeError(f"{old}= is the old name of {new}=: give {cls.__name__} one.")
                if old in settings:
                    settings[new] = settings.pop(old)
            original(self, *args, **settings)

        cls.__init__, cls.renamed = init, names
        for old, new in names.items():
            setattr(cls, old, property(attrgetter(new)))
        return cls

    return decorate
