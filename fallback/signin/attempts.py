"""How often a password may be tried, by one address and by all together.

Theory of operation: a bucket of attempts, kept as one instant, the one at which it is full again (the generic cell rate
algorithm). An attempt moves that instant on by the time that one attempt takes to come back; where it lies further ahead than a
whole bucket, there is none left. An attempt is taken before the password is looked at, so that many at once gain nothing, and
given back where it was right. Addresses whose bucket is full are forgotten, and of too many the ones that tried longest ago:
whoever has that many addresses meets the bucket of all.

Source: ITU-T I.371, annex A (the algorithm).
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

__all__ = ["Attempts"]

OF_ONE, OF_ONE_EVERY_S = 5, 30.0
"""Attempts of one address at once, and how long each takes to come back."""
OF_ALL, OF_ALL_EVERY_S = 50, 1.0
MAX_ADDRESSES = 10_000


class Attempts:
    """Who tried, and how often of late. Belongs to one event loop."""

    def __init__(self) -> None:
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._all_full_at = 0.0

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, address: str, now: float) -> float:
        """Take one attempt of `address` at the instant `now` and return 0, or return how many seconds it has to wait."""
        whose = _network(address)
        of_one = max(now, self._full_at.get(whose, now)) + OF_ONE_EVERY_S
        of_all = max(now, self._all_full_at) + OF_ALL_EVERY_S
        wait_s = max(of_one - OF_ONE * OF_ONE_EVERY_S - now, of_all - OF_ALL * OF_ALL_EVERY_S - now)
        if wait_s > 0:
            return wait_s
        self._all_full_at = of_all
        self._full_at[whose] = of_one
        self._full_at.move_to_end(whose)
        while self._full_at and (
            len(self._full_at) > MAX_ADDRESSES or next(iter(self._full_at.values())) <= now
        ):
            self._full_at.popitem(last=False)
        return 0.0

    def give_back(self, address: str) -> None:
        """Give back an attempt that was right."""
        self._all_full_at -= OF_ALL_EVERY_S
        whose = _network(address)
        if whose in self._full_at:
            self._full_at[whose] -= OF_ONE_EVERY_S


def _network(address: str) -> str:
    """Return what counts as one address: of IPv6 the half that a provider gives to one customer."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
