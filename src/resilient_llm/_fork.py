"""What a child of `os.fork` has to forget: threads, event loops and what they held did not come along.

In the child a slot that another thread had taken would never come back, a lock that it held would never open, and a
loop that it ran would never answer. Connections need no hand: each belongs to a loop, and the child's loop is new.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgetful(Protocol):
    """Something that does not survive a fork as it is."""

    def after_fork(self) -> None:
        """Makes it anew, in the child, where no other thread runs."""
        ...


_ALIVE: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def forgets(one: Forgetful) -> None:
    """From now on, as long as it lives, it is told of every fork."""
    _ALIVE.add(one)


def _forked() -> None:
    for one in list(_ALIVE):
        one.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
