"""A gRPC server as all of ours are: health, reflection, error table, graceful drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Iterable

import grpc
from afr.rpc.channel import MAXIMUM_MESSAGE_BYTES
from afr.rpc.errors import ErrorInterceptor, ErrorTable
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

_log = logging.getLogger(__name__)


class PortTaken(Exception):
    """The address to listen on is in use or not ours."""


async def serve(
    register: Callable[[grpc.aio.Server], None],
    *,
    service_names: Iterable[str],
    table: ErrorTable,
    address: str,
    on_ready: Callable[[int], None],
    on_drain: Callable[[], Awaitable[None]] | None = None,
    grace_seconds: float = 5.0,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    `register` adds the servicers. `address` is HOST:PORT, port 0 for a free one; `on_ready` gets the port once calls
    are answered. At the end the health service says NOT_SERVING, `on_drain` lets streams end by themselves, and calls
    still open after `grace_seconds` are cut. Raises `PortTaken` if the address cannot be listened on.
    """
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(table)],
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # Clients ping every 20 s on quiet streams; a server that finds this too often would hang up on them.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.max_receive_message_length", MAXIMUM_MESSAGE_BYTES),
        ],
    )
    register(server)
    names = (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
    checker = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    reflection.enable_server_reflection(names, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise PortTaken(f"cannot listen on {address}: the port is taken or the host is not ours; choose another")
    await server.start()
    for name in ("", *names):
        await checker.set(name, health_pb2.HealthCheckResponse.SERVING)

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stopping.set)
    on_ready(port)
    _log.info("serving on port %d", port)
    await stopping.wait()
    _log.info("draining")
    await checker.enter_graceful_shutdown()
    if on_drain is not None:
        await on_drain()
    await server.stop(grace_seconds)
