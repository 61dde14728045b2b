"""Canceling a job that this command has created, when it is interrupted."""

from __future__ import annotations

import contextlib
import threading

_CANCEL_SECONDS = 5.0


def cancel_job(attack_address: str, job_id: str) -> bool:
    """Cancel a job within a few seconds; say whether the server has confirmed it.

    On a channel and a thread of its own: the interrupt may have come in the middle of a call on the other one.
    """
    confirmed = threading.Event()

    def cancel() -> None:
        from afr.attack.v1.attack_service_pb2 import CancelAttackJobRequest

        from cli.connecting import AttackServer

        with contextlib.suppress(Exception):
            server = AttackServer(attack_address)
            server.call(
                server.stub.CancelAttackJob, CancelAttackJobRequest(attack_job_id=job_id), seconds=_CANCEL_SECONDS
            )
            confirmed.set()

    thread = threading.Thread(target=cancel, daemon=True)
    thread.start()
    thread.join(_CANCEL_SECONDS)
    return confirmed.is_set()
