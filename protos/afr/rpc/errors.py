"""Errors on both sides of the wire: one table turns domain errors into statuses, one function reads them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "afr"

_SENTENCE_BYTES = 1200

_log = logging.getLogger(__name__)


class InvalidAddress(ValueError):
    """An address does not read HOST:PORT."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call, as a client should see it: a status, a stable reason, a sentence, perhaps a field."""

    code: grpc.StatusCode
    reason: str
    message: str
    field: str = ""


ErrorTable = Mapping[type[Exception], tuple[grpc.StatusCode, str]]
"""Domain error -> (status, stable reason in UPPER_SNAKE_CASE). Subclasses without an entry take their parent's."""


def status_of(error: Exception, table: ErrorTable) -> status_pb2.Status | None:
    """The `google.rpc.Status` of a domain error, or None if the table does not know its class.

    An error with an attribute `field` also carries a `BadRequest` naming it.
    """
    sentence = _clipped(str(error))
    for kind in type(error).__mro__:
        if kind in table:
            code, reason = table[kind]
            details = [_pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))]
            if field := getattr(error, "field", ""):
                violation = error_details_pb2.BadRequest.FieldViolation(field=_clipped(field), description=sentence)
                details.append(_pack(error_details_pb2.BadRequest(field_violations=[violation])))
            return status_pb2.Status(code=code_pb2.Code.Value(code.name), message=sentence, details=details)
    return None


def failure_of(error: grpc.RpcError) -> Failure:
    """Read a failed call. Works for the errors of any gRPC server; reason and field may be empty."""
    code, message, reason, field = error.code(), error.details() or "", "", ""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
    return Failure(code, reason, message, field)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call whose handler raised a domain error with the status of the table.

    Any other exception is a defect: it is logged, and the client sees `INTERNAL` without its text.
    """

    def __init__(self, table: ErrorTable) -> None:
        self._table = table

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return handler

        async def end(error: Exception, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            status = status_of(error, self._table)
            if status is None:
                _log.exception("defect in %s", handler_call_details.method, exc_info=error)
                await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has the details")
            else:
                converted = rpc_status.to_status(status)
                await context.abort(converted.code, converted.details, converted.trailing_metadata)

        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                return await inner(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await end(error, context)

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            try:
                # Closed at once when the client is gone, not when the garbage collector finds it.
                async with contextlib.aclosing(inner(request, context)) as responses:
                    async for response in responses:
                        try:
                            await context.write(response)
                        except grpc.aio.InternalError:
                            return  # The client went away in the middle of this message.
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await end(error, context)

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        behaviour: Any = stream if handler.response_streaming else unary
        return make(behaviour, handler.request_deserializer, handler.response_serializer)


def _clipped(text: str) -> str:
    """At most what fits: a sentence travels three times, percent-encoded once, in trailers that may have 8 KiB."""
    encoded = text.encode()
    if len(encoded) <= _SENTENCE_BYTES:
        return text
    # What is too long is so because of what a client sent; what we know about it mostly stands at the end.
    head, tail = encoded[: _SENTENCE_BYTES // 4], encoded[-_SENTENCE_BYTES * 3 // 4 :]
    return f"{head.decode(errors='ignore')} ... {tail.decode(errors='ignore')}"


def _pack(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
