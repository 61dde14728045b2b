"""Client streams to the survival server: messages out, one answer back, Ctrl-C in between."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cli.interrupts import interrupts

if TYPE_CHECKING:
    from cli.connecting import Server


def submit(server: Server, method: Any, messages: Iterable[Any]) -> Any:
    """Send all messages and return the answer. `messages` must not raise: gRPC reads them in a thread of its own.

    Raises `Problem` if the call fails, `Interrupted` if somebody has enough.
    """
    import grpc

    call = method.future(iter(messages))
    try:
        while True:
            interrupts.check()
            try:
                return call.result(timeout=0.2)
            except grpc.FutureTimeoutError:
                continue
    except grpc.RpcError as error:
        raise server.problem(error) from error
    finally:
        call.cancel()
