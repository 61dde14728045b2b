"""The processes that run shards: their names in leases, and which of them compute on the same device."""

from __future__ import annotations

import os
import socket
import threading
import time

import redis

from attack_service.adapters.keys import computing_key

LEASE_SECONDS = 10.0
"""How long a process that stopped giving signs of life is thought alive."""


def owner_name() -> str:
    """This process, in a lease."""
    return f"{socket.gethostname()}:{os.getpid()}"


def owner_is_dead(owner: str) -> bool:
    """Whether the process in a lease is known to be dead: it was on this machine and is no more."""
    host, _, pid = owner.rpartition(":")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


class Neighbours:
    """The other processes of this host that compute on the same device. Used by two threads.

    Each keeps its own name in a sorted set by the time of its last sign of life.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key = ""
        self._most = 0

    @property
    def most(self) -> int:
        """The most that were seen at once."""
        with self._lock:
            return self._most

    def meet(self, client: redis.Redis, device: str) -> None:
        """Be seen by the others on a device, and count them."""
        with self._lock:
            self._key = computing_key(socket.gethostname(), device)
            self._look_around(client)

    def look_around(self, client: redis.Redis) -> None:
        """Give a sign of life between `meet` and `part`, and count the others."""
        with self._lock:
            if self._key:
                self._look_around(client)

    def part(self, client: redis.Redis) -> None:
        """Be seen no more."""
        with self._lock:
            key, self._key = self._key, ""
        if key:
            client.zrem(key, owner_name())

    def _look_around(self, client: redis.Redis) -> None:
        moment = time.time()
        with client.pipeline(transaction=True) as pipe:
            pipe.zadd(self._key, {owner_name(): moment})
            pipe.zremrangebyscore(self._key, "-inf", moment - LEASE_SECONDS)
            pipe.pexpire(self._key, round(2 * LEASE_SECONDS * 1000))
            pipe.zrange(self._key, 0, -1)
            others = {owner.decode() for owner in pipe.execute()[-1]} - {owner_name()}
        self._most = max(self._most, sum(not owner_is_dead(owner) for owner in others))
