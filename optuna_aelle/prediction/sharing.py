"""What the threads of a process make once and share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from typing import Generic
from typing import TypeVar

T = TypeVar("T")


class _Place(Generic[T]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: list[T] = []


class Shared(Generic[T]):
    """Values by key, each made by whoever asks first.

    Whoever asks for the same key meanwhile waits, since the answer must not depend on who came
    first; whoever asks for another one does not.

    Args:
        most: How many are kept; those that were asked for longest ago go.

    Example:
        >>> squares = Shared(most=2)
        >>> squares.get(3, lambda: 3**2)
        9
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._places: OrderedDict[object, _Place[T]] = OrderedDict()

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The value of a key."""
        with self._lock:
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            while len(self._places) > self._most:
                self._places.popitem(last=False)
        with place.lock:
            if not place.made:
                place.made.append(make())
        return place.made[0]

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return {"most": self._most}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["most"])  # type: ignore[misc]
