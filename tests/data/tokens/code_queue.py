"""A bounded priority queue with expiry, for workers that must not serve stale jobs."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_COUNTER = itertools.count()


class QueueFull(RuntimeError):
    """Raised by put() when max_size entries are waiting."""


@dataclass(order=True)
class _Entry(Generic[T]):
    priority: int
    sequence: int = field(default_factory=lambda: next(_COUNTER))
    expires_at: float = field(compare=False, default=float("inf"))
    payload: T | None = field(compare=False, default=None)


class ExpiringQueue(Generic[T]):
    def __init__(self, max_size: int = 1024, clock=time.monotonic) -> None:
        if max_size <= 0:
            raise ValueError(f"max_size must be positive, got {max_size!r}")
        self._heap: list[_Entry[T]] = []
        self._lock = threading.Lock()
        self._not_empty = threading.Condition(self._lock)
        self._max_size, self._clock = max_size, clock
        self.stats: dict[str, int] = {"put": 0, "got": 0, "expired": 0}

    def put(self, payload: T, *, priority: int = 100, ttl: float | None = None) -> None:
        expires_at = float("inf") if ttl is None else self._clock() + ttl
        with self._not_empty:
            self._drop_expired()
            if len(self._heap) >= self._max_size:
                raise QueueFull(f"{len(self._heap)} of {self._max_size} entries are waiting")
            heapq.heappush(self._heap, _Entry(priority, expires_at=expires_at, payload=payload))
            self.stats["put"] += 1
            self._not_empty.notify()

    def get(self, timeout: float | None = None) -> T:
        deadline = None if timeout is None else self._clock() + timeout
        with self._not_empty:
            while True:
                self._drop_expired()
                if self._heap:
                    entry = heapq.heappop(self._heap)
                    self.stats["got"] += 1
                    return entry.payload  # type: ignore[return-value]
                remaining = None if deadline is None else deadline - self._clock()
                if remaining is not None and remaining <= 0.0:
                    raise TimeoutError("nothing arrived in time")
                self._not_empty.wait(remaining)

    def _drop_expired(self) -> None:
        now = self._clock()
        alive = [entry for entry in self._heap if entry.expires_at > now]
        if len(alive) != len(self._heap):
            self.stats["expired"] += len(self._heap) - len(alive)
            heapq.heapify(alive)
            self._heap = alive

    def __iter__(self) -> Iterator[Any]:
        with self._lock:
            return iter([entry.payload for entry in sorted(self._heap)])

    def __len__(self) -> int:
        return len(self._heap)
