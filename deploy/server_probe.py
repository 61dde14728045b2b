"""Ask a server's health service whether it serves; exit 0 if it does, 1 with one line on stderr if not.

Usage: server_probe.py HOST:PORT [SERVICE]

For container engines without gRPC probes of their own; Kubernetes has them.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_SECONDS = 3.0
"""Below every health check's own time limit, so that the reason is printed before the probe is killed."""


def fault(address: str, service: str) -> str | None:
    """Say why the server at `address` does not serve `service` ("" for the whole server); None if it does."""
    # A probe must reach the server beside it, never a proxy that the environment names for the outside.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS).status
        except grpc.RpcError as error:
            return f"{address}: {error.code().name}: {error.details()}"
    if status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return f"{address}: {service or 'server'} is {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}"


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: server_probe.py HOST:PORT [SERVICE]")
    sys.exit(fault(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else ""))
