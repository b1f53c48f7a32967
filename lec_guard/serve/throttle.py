"""How often somebody may try keys."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    """Tries that are left, as of some time."""

    left: float
    at: float


class Throttle:
    """Bounds failed sign-ins, of each address and of all together. A good key costs nothing.

    Args:
        each: Failures that an address has at once; after them one comes back every `each_s` seconds.
        each_s: See `each`. In seconds.
        all_: The same for all addresses together.
        all_s: The same for all addresses together. In seconds.
        most: How many addresses are remembered.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        *,
        each: int = 5,
        each_s: float = 20.0,
        all_: int = 200,
        all_s: float = 0.5,
        most: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._each, self._each_s = each, each_s
        self._all, self._all_s = all_, all_s
        self._most = most
        self._clock = clock
        self._addresses: dict[str, _Bucket] = {}
        self._together = _Bucket(all_, clock())
        self._lock = threading.Lock()

    def wait_s(self, address: str) -> int:
        """How long an address has to wait before it may try a key.

        Args:
            address: Where the request came from.

        Returns:
            Whole seconds; 0 if it may try now.
        """
        with self._lock:
            own = self._own(_network(address))
            together = self._refilled(self._together, self._all, self._all_s)
            waits = [(1 - own.left) * self._each_s, (1 - together.left) * self._all_s]
            return max(0, *(math.ceil(wait) for wait in waits))

    def failed(self, address: str) -> None:
        """Remember that an address tried a wrong key.

        Args:
            address: Where the request came from.
        """
        with self._lock:
            name = _network(address)
            own = self._own(name)
            own.left -= 1
            self._refilled(self._together, self._all, self._all_s).left -= 1
            self._addresses.pop(name, None)
            self._addresses[name] = own
            while len(self._addresses) > self._most:
                del self._addresses[next(iter(self._addresses))]

    def _own(self, name: str) -> _Bucket:
        return self._refilled(self._addresses.get(name, _Bucket(self._each, self._clock())), self._each, self._each_s)

    def _refilled(self, bucket: _Bucket, most: int, every_s: float) -> _Bucket:
        now = self._clock()
        bucket.left, bucket.at = min(most, bucket.left + (now - bucket.at) / every_s), now
        return bucket


def _network(address: str) -> str:
    """An address, or the network of one where whoever has one address has billions."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    return str(found) if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))
