"""Connections to Redis that ride out a restart, and one sentence when they cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.exceptions import MasterDownError, NoPermissionError
from redis.retry import Retry

from attack_service.errors import StoreFull, StoreUnavailable

# BusyLoadingError, which a restarted server answers while it reads its file, is a ConnectionError too.
_OUTAGE = (redis.ConnectionError, redis.TimeoutError, OSError)
# A replica, rights that are not enough. A disk that is full has no class, only the word MISCONF.
_REFUSAL = (redis.ReadOnlyError, NoPermissionError, MasterDownError)
# ZRANGE ... BYSCORE, which the queue needs.
_OLDEST_SERVER = (6, 2)
_LONGEST_PAUSE = 1.0


def _options() -> dict[str, Any]:
    return {
        # Above the longest blocking read (`outcome_log`), or a quiet stream would look like an outage.
        "socket_timeout": 10.0,
        "socket_connect_timeout": 3.0,
        "socket_keepalive": True,
        "health_check_interval": 30,
        # Every open stream of outcomes holds a connection while it waits.
        "max_connections": 10_000,
    }


def _retry_count(patience_seconds: float) -> int:
    # The first five pauses (.05, .1, ... .8 s) add up to about 1.5 s, all others are a second long.
    return max(1, round(patience_seconds / _LONGEST_PAUSE) + 4)


def connect(redis_url: str, patience_seconds: float) -> redis.Redis:
    """A client that repeats a command for about `patience_seconds` while Redis is away. The caller closes it."""
    retry = Retry(ExponentialBackoff(cap=_LONGEST_PAUSE, base=0.05), _retry_count(patience_seconds))
    return redis.Redis.from_url(redis_url, retry=retry, **_options())


def connect_asyncio(redis_url: str, patience_seconds: float) -> redis.asyncio.Redis:
    """Like `connect`, for the running event loop."""
    retry = AsyncRetry(ExponentialBackoff(cap=_LONGEST_PAUSE, base=0.05), _retry_count(patience_seconds))
    return redis.asyncio.Redis.from_url(redis_url, retry=retry, **_options())


@contextmanager
def outages_as_domain_errors() -> Iterator[None]:
    """Turn a Redis that stays away into `StoreUnavailable`."""
    try:
        yield
    except _OUTAGE as error:
        raise StoreUnavailable(f"Redis does not answer ({_reason(error)}); try again once it is back") from error
    except redis.OutOfMemoryError as error:
        raise StoreFull("Redis has no memory left; delete jobs, or raise its maxmemory") from error
    except redis.ResponseError as error:
        if isinstance(error, _REFUSAL) or "MISCONF" in str(error):
            raise StoreUnavailable(f"Redis refuses to serve ({_reason(error)})") from error
        raise


def shown(redis_url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(redis_url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="").geturl()


def check_server(redis_url: str) -> None:
    """Raise `StoreUnavailable` unless a Redis server that is new enough answers at `redis_url`."""
    where = shown(redis_url)
    try:
        client = redis.Redis.from_url(redis_url, socket_timeout=5, socket_connect_timeout=3)
    except ValueError as error:
        raise StoreUnavailable(f"{where!r} is no URL of a Redis server ({error}); give redis://HOST:PORT/0") from None
    if urlsplit(redis_url).scheme == "unix":
        # The queue's client cannot use one.
        raise StoreUnavailable(f"{where!r} is a socket file; give the URL of a Redis server, redis://HOST:PORT/0")
    try:
        info = client.info("server")
    except redis.AuthenticationError:
        raise StoreUnavailable(
            f"the Redis server at {where} wants another user or password; "
            "give --redis-url redis://USER:PASSWORD@HOST:PORT/0, USER empty if there is none"
        ) from None
    except (redis.RedisError, OSError) as error:
        raise StoreUnavailable(
            f"no Redis server at {where} ({_reason(error)}); start one, or give --redis-url"
        ) from None
    finally:
        client.close()
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_SERVER:
        raise StoreUnavailable(f"the Redis server at {where} has version {version}; 6.2 or newer is needed")


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().rstrip(".")
