"""One limit for all processes of a machine: a slot is a file, and whoever has its lock holds the slot.

Four web workers that each allow one call at a time have four at once on a box that can do one. The kernel sees them
all, and frees the locks of a process that dies, however it dies; a count in a file or a database would stay.

Why `flock`: a POSIX lock (`lockf`) is lost as soon as anything in the process closes any descriptor of the file, and
two clients in one process would not see each other's. A `flock` belongs to one opened file, so neither can happen.
But a child of `fork` shares the opened file. So the child closes its copies at once, without unlocking, and who gives
a slot back unlocks it, for all copies that may be left, before closing.

It is best effort:
  - Processes share a limit if they run as one user and have the same folder for temporary files. Containers do not.
  - There is no queue across processes. Who waits looks again within 50 ms, and luck decides who is served next.
  - A stream that nobody reads gives its slot up to those who wait in its own process: of the others it does not know.
  - Where the file system fails, a process goes on with its own limit alone, and the log says so.
  - A copy of a lock survives its process only in a child that C code forked without executing anything.

Rules of the file: nothing waits and no lock of ours is taken, so a finaliser may give a slot back.
"""

from __future__ import annotations

import logging
import os
import random
import re
import stat
import tempfile

from resilient_llm._errors import ConfigError
from resilient_llm._fork import forgets
from resilient_llm._numbers import shown, whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

POLL = 0.05  # seconds after which who waits has looked again
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
log = logging.getLogger("resilient_llm")


class Place:
    """A slot that this process holds. Given back once, from any thread, loop or finaliser."""

    __slots__ = ("_file", "_owner")

    def __init__(self, owner: SharedSlots, *file: int) -> None:
        self._owner, self._file = owner, list(file)

    def release(self) -> None:
        """The slot is free for every process."""
        try:
            file = self._file.pop()  # atomic: only the first of two threads gets it
        except IndexError:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            # In this order: a child that is forked in between may keep a useless copy, but closes no file of others.
            self._owner._held.pop(file, None)
            os.close(file)

    def abandon(self) -> None:
        """In a child: the slot stays with the parent."""
        while self._file:
            os.close(self._file.pop())

    def __repr__(self) -> str:
        return f"Place({'held' if self._file else 'released'})"


class SharedSlots:
    """At most `slots` at once in all processes of this user on this machine that use the same name.

    Args:
        name: letters, digits, `.`, `_` and `-`; at most 64.
        slots: from 1; may be set later. Where processes differ, the largest number counts.

    Attributes:
        folder: where the files are; they are empty and stay.

    Raises:
        ConfigError: an argument is impossible, the system has no file locks (Windows), or the folder is not ours alone.
    """

    def __init__(self, name: str, slots: int = 1) -> None:
        if fcntl is None:
            raise ConfigError(
                "shared: this system has no file locks that the kernel frees (POSIX has);"
                " give each process its own part of the slots instead, such as Bulkhead(slots=1)"
            )
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"shared: {shown(name)} is not a name of 1 to 64 letters, digits, '.', '_' and '-'")
        whole("slots", slots)
        self.name, self.slots, self.folder = name, slots, _folder()
        self._held: dict[int, Place] = {}  # by descriptor
        self._rng = random.Random()
        self._warned = False
        forgets(self)

    def after_fork(self) -> None:
        """In the child: what is held is the parent's, and chance is its own."""
        for place in list(self._held.values()):
            place.abandon()
        self._held.clear()
        self._rng = random.Random()

    def try_take(self) -> Place | None:
        """A slot at once, or `None`: other processes, or others in this one, hold them all.

        Raises:
            ConfigError: the folder was removed, and what is there now is not ours alone.
        """
        for number in range(self.slots):
            try:
                return self._lock(os.path.join(self.folder, f"{self.name}.{number}"))
            except BlockingIOError:
                continue
            except OSError as error:
                return self._goes_on_alone(error)
        return None

    def poll(self) -> float:
        """Seconds after which to look again: by chance, so that processes do not look in step."""
        return self._rng.uniform(POLL / 5, POLL)

    def _lock(self, path: str) -> Place:
        """The slot of this file.

        Raises:
            BlockingIOError: it is taken.
        """
        file = _open(path)
        place = self._held[file] = Place(self, file)  # before it is locked: from now on a child closes its copy
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_there(file, path):
                raise BlockingIOError("the file was deleted meanwhile: others lock another one")
            os.utime(file)  # what cleans up temporary files looks at their age
        except BaseException:
            place.release()
            raise
        return place

    def _goes_on_alone(self, error: OSError) -> Place:
        if not self._warned:
            self._warned = True
            log.warning("the slots %r are not shared with other processes: %s", self.name, error)
        return Place(self)

    def __repr__(self) -> str:
        return f"SharedSlots({self.name!r}, {self.slots} in {self.folder}, {len(self._held)} held by this process)"


def _folder() -> str:
    """The folder for this user's locks, made if it is not there.

    Raises:
        ConfigError: it cannot be made, or others could write to it.
    """
    user = os.geteuid()
    path = os.path.join(tempfile.gettempdir(), f"resilient_llm-{user}")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        about = os.lstat(path)
    except OSError as error:
        raise ConfigError(f"shared: no folder for the locks: {error}") from None
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != user or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"shared: {path} has to be a folder of this user to which nobody else may write")
    return path


def _open(path: str) -> int:
    """The file of a slot; Python closes it in what this process executes."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        _folder()
        return os.open(path, flags, 0o600)


def _is_there(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
