"""The survival server: settings in, a running server out."""

from __future__ import annotations

import logging
import threading

import grpc
from afr.rpc.channel import open_aio_channel
from afr.rpc.server import PortTaken, serve
from afr.survival.v1 import survival_service_pb2 as pb
from afr.survival.v1 import survival_service_pb2_grpc as pb_grpc

from survival_service import nonparametric
from survival_service.adapters.attack_client import AttackClient
from survival_service.adapters.errors import TABLE
from survival_service.adapters.report_store import ReportStore
from survival_service.adapters.servicer import SurvivalServicer
from survival_service.settings import Settings

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["SurvivalService"].full_name

_log = logging.getLogger(__name__)


class CannotServe(Exception):
    """The server cannot start; the message says what to change."""


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Prints `ready HOST:PORT` once calls are answered.

    Raises `CannotServe`.
    """
    try:
        store = ReportStore(settings.state / "reports")
    except OSError as error:
        why = error.strerror or str(error)
        raise CannotServe(f"reports cannot be kept in {settings.state}: {why}; choose another --state") from error
    async with open_aio_channel(settings.attack_address) as channel:
        servicer = SurvivalServicer(AttackClient(channel, settings.attack_address), store)

        def register(server: grpc.aio.Server) -> None:
            pb_grpc.add_SurvivalServiceServicer_to_server(servicer, server)

        def ready(port: int) -> None:
            print(f"ready {settings.host}:{port}", flush=True)
            threading.Thread(target=preload, name="preload", daemon=True).start()

        try:
            await serve(
                register,
                service_names=[SERVICE_NAME],
                table=TABLE,
                address=settings.address,
                on_ready=ready,
                # A client that waits for a report has nothing of it before its end; there is nothing to drain for.
                grace_seconds=2.0,
            )
        except PortTaken as error:
            raise CannotServe(str(error)) from error
        finally:
            servicer.close()


def preload() -> None:
    """Import what takes seconds, behind the back of the first report."""
    try:
        nonparametric.load()
    except Exception:
        _log.exception("lifelines cannot be imported")
