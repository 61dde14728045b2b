"""The attack server: the servicer on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from afr.attack.v1 import attack_service_pb2 as pb
from afr.attack.v1 import attack_service_pb2_grpc as rpc
from afr.rpc.server import PortTaken
from afr.rpc.server import serve as serve_rpc

from attack_service.adapters.connecting import check_server, connect_asyncio
from attack_service.adapters.errors import TABLE
from attack_service.adapters.job_store import JobStore
from attack_service.adapters.outcome_log import OutcomeLog
from attack_service.adapters.queueing import JobQueue, build_app
from attack_service.adapters.servicer import AttackServicer
from attack_service.settings import ServeSettings

__all__ = ["PortTaken", "serve"]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AttackService"].full_name


async def serve(settings: ServeSettings, on_ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` gets the port.

    Its health is its own: Redis away is a status of each call. All servers share one Redis, and taking them all out of
    service would replace that sentence by a refused connection.

    Raises `StoreUnavailable` if there is no Redis at the start, `PortTaken` if the address cannot be
    listened on.
    """
    await asyncio.to_thread(check_server, settings.redis_url)
    client = connect_asyncio(settings.redis_url, settings.redis_patience_seconds)
    app = build_app(settings.redis_url)
    servicer = AttackServicer(JobStore(client), OutcomeLog(client), JobQueue(app, client), settings.heartbeat_seconds)

    def register(server: grpc.aio.Server) -> None:
        rpc.add_AttackServiceServicer_to_server(servicer, server)

    reconciling = asyncio.create_task(servicer.reconcile(settings.reconcile_seconds))
    try:
        await serve_rpc(
            register,
            service_names=[SERVICE_NAME],
            table=TABLE,
            address=settings.address,
            on_ready=on_ready,
            on_drain=servicer.stop,
            grace_seconds=settings.grace_seconds,
        )
    finally:
        await servicer.stop()
        reconciling.cancel()
        await asyncio.gather(reconciling, return_exceptions=True)
        await client.aclose()
        app.close()
