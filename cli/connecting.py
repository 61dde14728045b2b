"""Calls to the services: where they are, and what a failed call means to the person at the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cli.errors import Problem
from cli.interrupts import interrupts

if TYPE_CHECKING:
    import grpc
    from afr.attack.v1.attack_service_pb2_grpc import AttackServiceStub
    from afr.survival.v1.survival_service_pb2_grpc import SurvivalServiceStub

CALL_SECONDS = 30.0

_OPTION_OF_FIELD = {
    "model": "--model",
    "dataset": "--dataset",
    "attack": "--attack",
    "engine": "--engine",
    "sample_count": "--samples",
    "epoch_count": "--epochs",
    "seed": "--seed",
    "norm": "--norm",
    "stem": "--stem",
    "image_size": "--image-size",
    "batch_size": "--batch-size",
    "shard_count": "--shards",
    "weights": "--weights",
    "checkpoint": "--checkpoint",
    "program": "--program",
    "training_seconds": "--training-seconds",
    "training_sample_count": "--training-samples",
    "defence": "--defence",
    "confidence_level": "--confidence-level",
    "distributions": "--distribution",
}

_OPTIONS_OF_PARAMETERS = {"attack_parameters": "--attack-parameter", "defence_parameters": "--defence-parameter"}
_PARAMETERS_WITH_OPTION = {"epsilon": "--epsilon", "step_size": "--step-size", "max_iterations": "--max-iterations"}


class Server:
    """One server: its address, its channel, and its name in sentences. Made cheaply, connects at the first call."""

    def __init__(self, name: str, address: str) -> None:
        from afr.rpc.channel import open_channel

        self.name, self.address = name, address
        self.channel: grpc.Channel = open_channel(address)

    def close(self) -> None:
        # Closing waits for calls under way, whose threads may be the ones that want to be told of an interrupt.
        with interrupts.shielded():
            self.channel.close()

    def call(self, method: Callable[..., Any], request: Any, *, seconds: float = CALL_SECONDS) -> Any:
        """Make one unary call; raise `Problem` if it fails."""
        import grpc

        try:
            return method(request, timeout=seconds)
        except grpc.RpcError as error:
            raise self.problem(error) from error

    def problem(self, error: grpc.RpcError) -> Problem:
        """What a failed call means, in a sentence with the next step."""
        import grpc
        from afr.rpc.errors import failure_of

        failure = failure_of(error)
        said = failure.message.strip() or failure.code.name
        if failure.reason:
            # Our own servers' sentences say what to do; only they know reasons.
            option = option_of(failure.field)
            return Problem(f"{option}: {said}" if option and option not in said else said)
        where = f"the {self.name} at {self.address}"
        if "HTTP/2" in said:
            return Problem(f"what answers at {self.address} is no gRPC server; check the address of the {self.name}")
        return Problem(
            {
                grpc.StatusCode.UNAVAILABLE: f"{where} cannot be reached; check that it runs "
                f"({said.rpartition(': ')[2].strip('[] ')})",
                grpc.StatusCode.DEADLINE_EXCEEDED: f"{where} did not answer in time; try again, or look at its log",
                grpc.StatusCode.UNIMPLEMENTED: f"what answers at {self.address} does not know this call; check that it "
                f"is the {self.name}, that addresses are not swapped, and that it is not older than afrctl",
                grpc.StatusCode.CANCELLED: f"{where} ended the call; try again",
            }.get(failure.code, f"{where}: {said}")
        )


def option_of(field: str) -> str:
    """The option that fills a field, such as `spec.attack_parameters.decay`; empty if there is none."""
    group, _, name = field.rpartition(".")
    option = _OPTIONS_OF_PARAMETERS.get(group.rpartition(".")[2])
    if option is None:
        return _OPTION_OF_FIELD.get(name, "")
    named = f"{option} {name}"
    return _PARAMETERS_WITH_OPTION.get(name, named) if option == "--attack-parameter" else named


class AttackServer(Server):
    """The attack server with its stub."""

    def __init__(self, address: str) -> None:
        from afr.attack.v1.attack_service_pb2_grpc import AttackServiceStub

        super().__init__("attack server", address)
        self.stub: AttackServiceStub = AttackServiceStub(self.channel)


class SurvivalServer(Server):
    """The survival server with its stub."""

    def __init__(self, address: str) -> None:
        from afr.survival.v1.survival_service_pb2_grpc import SurvivalServiceStub

        super().__init__("survival server", address)
        self.stub: SurvivalServiceStub = SurvivalServiceStub(self.channel)


@contextlib.contextmanager
def attack_server(address: str) -> Iterator[AttackServer]:
    """An attack server, for the length of a block."""
    server = AttackServer(address)
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def survival_server(address: str) -> Iterator[SurvivalServer]:
    """A survival server, for the length of a block."""
    server = SurvivalServer(address)
    try:
        yield server
    finally:
        server.close()
