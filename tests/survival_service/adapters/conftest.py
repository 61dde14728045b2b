"""A real gRPC server for the attack service's side that does what a good one never does: break, repeat, lie, stall."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from afr.attack.v1 import attack_service_pb2 as pb
from afr.attack.v1 import attack_service_pb2_grpc as pb_grpc
from afr.outcome.v1 import outcome_pb2 as outcome_pb

SURVIVED, FAILED, MISCLASSIFIED, REJECTED = 1, 2, 3, 4
JOB = "job-1"


def make_job(state: int = pb.AttackJob.STATE_RUNNING, **fields: Any) -> pb.AttackJob:
    spec = pb.AttackSpec(
        model="resnet18",
        dataset="digits",
        attack="pgd",
        attack_parameters={"epsilon": 0.1, "max_iterations": 10},
        engine="native",
        sample_count=fields.pop("sample_count", 0),
        norm="inf",
    )
    record = pb.ModelRecord(
        weights_digest="w",
        training_sample_count=1000,
        epoch_count=3,
        clean_accuracy=0.95,
        parameter_count=11_000_000,
        training_device_name="cpu",
        attack_device_name="cpu",
        class_count=10,
        test_sample_count=360,
    )
    record.training_duration.FromMilliseconds(60_000)
    return pb.AttackJob(**{"attack_job_id": JOB, "spec": spec, "state": state, "model_record": record} | fields)


def make_batch(
    sequence: int,
    rows: Sequence[tuple[int, int, int]],
    *,
    in_flight: Sequence[tuple[int, int]] = (),
    **fields: Any,
) -> outcome_pb.OutcomeBatch:
    """A batch of `rows` (sample_index, verdict, check): failed at this check, or survived this many."""
    batch = outcome_pb.OutcomeBatch(
        **{
            "sequence": sequence,
            "attempt": 1,
            "weights_digest": "w",
            "dataset_digest": "d",
            "spec_digest": "s",
            "seconds_per_query": 0.01,
        }
        | fields
    )
    for index, verdict, check in rows:
        failed, clean = verdict == FAILED, verdict == MISCLASSIFIED
        queries = 0 if clean else (0 if check == 1 else check) if failed else check + 1
        gradients = 0 if clean else check - 1 if failed else check
        batch.sample_index.append(index)
        batch.verdict.append(verdict)
        batch.label.append(index % 10)
        batch.clean_prediction.append((index + clean) % 10)
        batch.adversarial_prediction.append((index + (failed or clean)) % 10)
        batch.query_count_lower.append(queries)
        batch.query_count_upper.append(0 if clean else check + 1 if failed else -1)
        batch.gradient_count_lower.append(gradients)
        batch.gradient_count_upper.append(0 if clean else check if failed else -1)
        batch.seconds_lower.append(0.01 * queries)
        batch.seconds_upper.append(0.0 if clean else 0.01 * (check + 1) if failed else math.inf)
        batch.distance_l2.append(0.5)
        batch.distance_linf.append(0.1)
        batch.distance_l0.append(64)
        batch.check_count.append(0 if clean else check)
        batch.clean_seconds.append(0.01)
    for index, check in in_flight:
        batch.in_flight.sample_index.append(index)
        batch.in_flight.check_count.append(check)
        batch.in_flight.query_count.append(check + 1)
        batch.in_flight.gradient_count.append(check)
        batch.in_flight.seconds.append(0.01 * (check + 1))
    return batch


def make_end(batches: Iterable[outcome_pb.OutcomeBatch], job: pb.AttackJob | None = None, **fields: Any) -> pb.End:
    """The truthful end of `batches`, but for `fields`."""
    verdicts: list[int] = []
    checksum = 0
    for batch in batches:
        verdicts += batch.verdict
        for row in zip(
            batch.sample_index, batch.verdict, batch.query_count_lower, batch.query_count_upper, strict=True
        ):
            digest = hashlib.sha256(":".join(map(str, row)).encode()).digest()
            checksum += int.from_bytes(digest[:8], "big")
    counts = {
        "outcome_count": len(verdicts),
        "failed_count": verdicts.count(FAILED),
        "survived_count": verdicts.count(SURVIVED) + verdicts.count(REJECTED),
        "misclassified_count": verdicts.count(MISCLASSIFIED),
        "checksum": checksum % 2**64,
    }
    return pb.End(attack_job=job or make_job(pb.AttackJob.STATE_SUCCEEDED), **counts | fields)


@dataclass(frozen=True)
class Abort:
    """A step of a script: end the call with this status."""

    code: grpc.StatusCode
    message: str = "scripted"


@dataclass(frozen=True)
class Stall:
    """A step of a script: send nothing more, keep the call open."""


@dataclass(frozen=True)
class Wait:
    """A step of a script: send nothing for a while."""

    seconds: float


Step = outcome_pb.OutcomeBatch | pb.Heartbeat | pb.End | Abort | Stall | Wait


@dataclass
class ScriptedAttackService(pb_grpc.AttackServiceServicer):
    """Each call of StreamOutcomes plays the next script, whose end closes the stream. Tokens count messages."""

    jobs: dict[str, pb.AttackJob]
    scripts: list[Sequence[Step]]
    tokens: list[str] = field(default_factory=list)
    get_failures: list[grpc.StatusCode] = field(default_factory=list)
    sent: int = 0
    open_streams: int = 0
    most_open_streams: int = 0
    by_job: dict[str, Sequence[Step]] = field(default_factory=dict)
    address: str = "127.0.0.1:0"

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_AttackServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Cut every connection, as a killed process would."""
        await self._server.stop(0)

    async def GetAttackJob(self, request: Any, context: Any) -> pb.GetAttackJobResponse:  # noqa: N802 (gRPC's name)
        if self.get_failures:
            await context.abort(self.get_failures.pop(0), "scripted")
        if request.attack_job_id not in self.jobs:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such job")
        return pb.GetAttackJobResponse(attack_job=self.jobs[request.attack_job_id])

    async def StreamOutcomes(self, request: Any, context: Any) -> AsyncIterator[pb.StreamOutcomesResponse]:  # noqa: N802
        self.tokens.append(request.resume_token)
        script: Sequence[Step] = [Abort(grpc.StatusCode.UNAVAILABLE, "script is over")]
        if request.attack_job_id in self.by_job:
            script = self.by_job.pop(request.attack_job_id)
        elif self.scripts:
            script = self.scripts.pop(0)
        self.open_streams += 1
        self.most_open_streams = max(self.most_open_streams, self.open_streams)
        try:
            for step in script:
                match step:
                    case Abort():
                        await context.abort(step.code, step.message)
                    case Stall():
                        await asyncio.sleep(3600)
                    case Wait():
                        await asyncio.sleep(step.seconds)
                    case _:
                        self.sent += 1
                        kind = {pb.Heartbeat: "heartbeat", pb.End: "end"}.get(type(step), "outcome_batch")
                        yield pb.StreamOutcomesResponse(**{kind: step, "resume_token": f"t{self.sent}"})
        finally:
            self.open_streams -= 1


@contextlib.asynccontextmanager
async def scripted_server(
    *scripts: Sequence[Step], jobs: Iterable[pb.AttackJob] | None = None
) -> AsyncIterator[ScriptedAttackService]:
    known = [make_job()] if jobs is None else jobs
    service = ScriptedAttackService({job.attack_job_id: job for job in known}, list(scripts))
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


@dataclass(frozen=True)
class Faults:
    """What a test needs to play a scripted attack service."""

    server: Callable[..., contextlib.AbstractAsyncContextManager[ScriptedAttackService]] = scripted_server
    batch: Callable[..., outcome_pb.OutcomeBatch] = make_batch
    end: Callable[..., pb.End] = make_end
    job: Callable[..., pb.AttackJob] = make_job
    abort: type[Abort] = Abort
    stall: type[Stall] = Stall
    wait: type[Wait] = Wait


@pytest.fixture
def faults() -> Faults:
    return Faults()
