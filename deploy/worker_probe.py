"""Ask whether the attack worker of this container gives its heartbeat; exit 0 if so, 1 with one line on stderr if not.

Usage: worker_probe.py ready|alive

`ready` wants the heartbeat to be seen in Redis. `alive` lets a worker be when Redis does not answer: it rides out the
outage with its job, and a restart would only lose what it has done.
"""

from __future__ import annotations

import os
import socket
import sys

import redis

from attack_service.adapters.keys import WORKERS, worker_key
from attack_service.settings import WorkSettings, read

TIMEOUT_SECONDS = 2.0
"""For each of three steps, so that the reason is printed before the probe's own time limit cuts it."""


def fault(client: redis.Redis, hostname: str) -> str | None:
    """Say why no worker of `hostname` counts as living; None if one does. Raises `redis.RedisError`."""
    # A container's workers are those of its host name; which process number they have depends on the engine.
    names = [owner.decode() for owner in client.sscan_iter(WORKERS, match=f"{hostname}:*")]
    if names and client.exists(*map(worker_key, names)):
        return None
    return f"no heartbeat of a worker on {hostname}: it is starting, stopping or stuck"


def main(question: str) -> str | None:
    """The sentence to exit with, None for a healthy worker."""
    url = read(WorkSettings, {}, os.environ).redis_url
    client = redis.Redis.from_url(url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS)
    try:
        return fault(client, socket.gethostname())
    except redis.RedisError as error:
        return None if question == "alive" else f"Redis does not answer: {error}"
    finally:
        client.close()


if __name__ == "__main__":
    if sys.argv[1:] not in (["ready"], ["alive"]):
        sys.exit("usage: worker_probe.py ready|alive")
    sys.exit(main(sys.argv[1]))
