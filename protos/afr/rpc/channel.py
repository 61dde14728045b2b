"""Channels to the services, with the settings that keep long quiet streams alive."""

from __future__ import annotations

from typing import Any

import grpc
from afr.rpc.errors import InvalidAddress

MAXIMUM_MESSAGE_BYTES = 64 * 1024 * 1024

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAXIMUM_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Calls to loopback must not go through a proxy that the environment names for the outside.
    ("grpc.enable_http_proxy", 0),
]


def check_address(address: str) -> str:
    """Return `address` if it reads HOST:PORT with a port from 1 to 65535; raise `InvalidAddress` if not."""
    host, separator, port = address.rpartition(":")
    named = host and "/" not in host and (":" not in host or (host.startswith("[") and host.endswith("]")))
    if not (named and separator and port.isdecimal() and 0 < int(port) < 65536):
        raise InvalidAddress(f"{address!r} is no address; give HOST:PORT, for example 127.0.0.1:50051 or [::1]:50051")
    return address


def open_channel(address: str) -> grpc.Channel:
    """A channel to `address` (HOST:PORT). Connects at the first call; the caller closes it."""
    return grpc.insecure_channel(check_address(address), options=_OPTIONS)


def open_aio_channel(address: str) -> grpc.aio.Channel:
    """A channel to `address` (HOST:PORT) for the running event loop. The caller closes it."""
    return grpc.aio.insecure_channel(check_address(address), options=_OPTIONS)
