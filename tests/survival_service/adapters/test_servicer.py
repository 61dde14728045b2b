"""The survival server over real sockets, behind it a scripted attack service."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from afr.attack.v1 import attack_service_pb2 as attack_pb
from afr.rpc.channel import open_aio_channel
from afr.rpc.errors import ErrorInterceptor, Failure, failure_of
from afr.survival.v1 import survival_service_pb2 as pb
from afr.survival.v1 import survival_service_pb2_grpc as pb_grpc
from google.protobuf import json_format

from survival_service import reporting
from survival_service.adapters.attack_client import AttackClient, Patience
from survival_service.adapters.errors import TABLE
from survival_service.adapters.report_store import ReportStore
from survival_service.adapters.servicer import Pace, SurvivalServicer
from survival_service.estimates import normal_quantile

JOB = "job-1"
HASTE = Patience(first_contact=0.3, without_message=1.0, silence=2.0, shortest_pause=0.01, longest_pause=0.1)
SUCCEEDED, FAILED, CANCELED = 3, 4, 5


def rows(start: int, stop: int) -> list[tuple[int, int, int]]:
    """A third survives ten checks, the rest fails at checks 1 to 7; every tenth was misclassified."""
    return [(i, 3, 0) if i % 10 == 9 else (i, 1, 10) if i % 3 == 0 else (i, 2, 1 + i % 7) for i in range(start, stop)]


@contextlib.asynccontextmanager
async def stub_for(attack_address: str, folder: Path, pace: Pace | None = None) -> AsyncIterator[Any]:
    async with open_aio_channel(attack_address) as to_attack:
        servicer = SurvivalServicer(AttackClient(to_attack, attack_address, HASTE), ReportStore(folder), pace)
        server = grpc.aio.server(interceptors=[ErrorInterceptor(TABLE)])
        pb_grpc.add_SurvivalServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with open_aio_channel(f"127.0.0.1:{port}") as channel:
            yield pb_grpc.SurvivalServiceStub(channel)
        await server.stop(0)
        servicer.close()


async def refused(call: Any) -> Failure:
    """Why a call failed, as a client reads it."""

    async def end() -> None:
        if hasattr(call, "read"):
            [response async for response in call]
        else:
            await call

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await end()
    return failure_of(caught.value)


def create(*jobs: str, **options: Any) -> pb.CreateReportRequest:
    return pb.CreateReportRequest(attack_job_ids=jobs or [JOB], options=pb.ReportOptions(**options))


def reported(
    faults: Any, folder: Path, *scripts: Any, jobs: Any = None, request: Any = None, pace: Pace | None = None
) -> list[pb.CreateReportResponse]:
    async def main() -> list[pb.CreateReportResponse]:
        async with (
            faults.server(*scripts, jobs=jobs) as attack,
            stub_for(attack.address, folder, pace) as stub,
        ):
            return [response async for response in stub.CreateReport(request or create())]

    return asyncio.run(main())


def not_reported(faults: Any, *scripts: Any, jobs: Any = None, request: Any = None, folder: Path) -> Failure:
    async def main() -> Failure:
        async with faults.server(*scripts, jobs=jobs) as attack, stub_for(attack.address, folder) as stub:
            return await refused(stub.CreateReport(request or create()))

    return asyncio.run(main())


def test_a_report_follows_its_progress_and_is_kept(faults: Any, tmp_path: Path) -> None:
    batches = [faults.batch(0, rows(0, 40), in_flight=[(41, 2)]), faults.batch(1, rows(40, 90))]

    async def main() -> None:
        script = [batches[0], faults.wait(0.3), batches[1], faults.end(batches)]
        async with faults.server(script) as attack, stub_for(attack.address, tmp_path, Pace(shortest=0.05)) as stub:
            responses = [response async for response in stub.CreateReport(create())]
            kinds = [response.WhichOneof("event") for response in responses]
            assert kinds == ["progress"] * (len(kinds) - 1) + ["report"]
            first = next(r.progress for r in responses if r.progress.outcome_count)
            assert (first.outcome_count, first.in_flight_count) == (40, 1)
            # The sample in flight is a censored row of the provisional fit.
            assert first.provisional_fits[0].observation_count == 40 - first.misclassified_count + 1
            report = responses[-1].report
            assert (report.sample_count, report.failed_count, report.survived_count, report.misclassified_count) == (
                90,
                sum(row[1] == 2 for row in rows(0, 90)),
                sum(row[1] == 1 for row in rows(0, 90)),
                9,
            )
            assert not report.partial
            assert report.clock_reports[0].clock == pb.CLOCK_QUERIES
            assert {fit.distribution for fit in report.clock_reports[0].fits} == {1, 2, 3}
            assert report.jobs[0].model == "resnet18"
            assert (await stub.GetReport(pb.GetReportRequest(report_id=report.report_id))).report == report
            assert (await stub.ListReports(pb.ListReportsRequest())).reports == [report]

    asyncio.run(main())


def test_the_asked_clock_comes_first(faults: Any, tmp_path: Path) -> None:
    batches = [faults.batch(0, rows(0, 60))]
    *_, last = reported(faults, tmp_path, [*batches, faults.end(batches)], request=create(clock=1))
    assert [clock.clock for clock in last.report.clock_reports] == [pb.CLOCK_SECONDS, pb.CLOCK_QUERIES]


def test_several_jobs_are_read_at_once_and_fitted_together(faults: Any, tmp_path: Path) -> None:
    """Each job's stream waits for the other to have begun: one after the other would never end."""
    one, two = [faults.batch(0, rows(0, 50))], [faults.batch(0, rows(0, 70))]
    jobs = [faults.job(attack_job_id="a"), faults.job(attack_job_id="b")]
    ends = [
        faults.end(batches, faults.job(SUCCEEDED, attack_job_id=name)) for batches, name in ((one, "a"), (two, "b"))
    ]
    scripts = [[*one, faults.wait(0.3), ends[0]], [*two, faults.wait(0.3), ends[1]]]

    async def main() -> list[Any]:
        async with faults.server(jobs=jobs) as attack, stub_for(attack.address, tmp_path) as stub:
            attack.by_job = dict(zip("ab", scripts, strict=True))
            call = stub.CreateReport(create("a", "b"))
            responses = [response async for response in call]
            assert attack.most_open_streams == 2
            return responses

    report = asyncio.run(main())[-1].report
    assert list(report.attack_job_ids) == ["a", "b"]
    assert report.sample_count == 120
    assert [job.failed_count for job in report.jobs] == [sum(r[1] == 2 for r in rows(0, n)) for n in (50, 70)]


def test_effects_of_several_jobs_and_their_distances_cross_the_wire(faults: Any, tmp_path: Path) -> None:
    """Two depths at two epsilons each: a sweep for each model, and a split of what differs."""
    jobs, scripts = [], {}
    for depth, digest in ((18, "w"), (50, "v")):
        for epsilon in (0.1, 0.2):
            name = f"{digest}-{epsilon}"
            job = faults.job(SUCCEEDED, attack_job_id=name)
            job.spec.model, job.model_record.weights_digest = f"resnet{depth}", digest
            job.spec.attack_parameters["epsilon"] = epsilon
            batches = [faults.batch(0, rows(0, 60), weights_digest=digest)]
            jobs.append(job)
            scripts[name] = [*batches, faults.end(batches, job)]

    async def main() -> Any:
        async with faults.server(jobs=jobs) as attack, stub_for(attack.address, tmp_path) as stub:
            attack.by_job = scripts
            responses = [response async for response in stub.CreateReport(create(*scripts, clock=3))]
            return responses[-1].report

    report = asyncio.run(main())
    assert [clock.clock for clock in report.clock_reports] == [3, 2, 1]
    assert report.distance_norm == "inf"
    assert report.clock_reports[0].conclusion == pb.CONCLUSION_UNSPECIFIED
    assert not report.clock_reports[0].cost_per_failure.HasField("value")
    found = report.effect_report
    assert [effect.contrast for effect in found.effects] == ["50 layers instead of 18", "epsilon doubled"]
    depth, epsilon = found.effects
    assert (depth.status, depth.model_level) == (pb.Effect.STATUS_TOO_FEW_MODELS, True)
    assert (epsilon.status, epsilon.model_level) == (pb.Effect.STATUS_OK, False)
    assert depth.total.value == pytest.approx(depth.queries.value * depth.seconds_per_query.value)
    assert found.model_count == 2


def test_a_distance_that_jobs_do_not_have_is_refused_before_they_are_read(faults: Any, tmp_path: Path) -> None:
    failure = not_reported(faults, [faults.wait(30)], request=create(clock=3), folder=tmp_path)
    assert failure.field == "options.clock"
    assert "ran at one epsilon" in failure.message


def test_a_canceled_job_gives_a_partial_report(faults: Any, tmp_path: Path) -> None:
    batches = [faults.batch(0, rows(0, 30))]
    end = faults.end(batches, faults.job(CANCELED, sample_count=200))
    report = reported(faults, tmp_path, [*batches, end])[-1].report
    assert report.partial
    assert report.sample_count == 30


def test_a_job_canceled_before_its_first_outcome_gives_a_report_without_numbers(faults: Any, tmp_path: Path) -> None:
    report = reported(faults, tmp_path, [faults.end([], faults.job(CANCELED, sample_count=200))])[-1].report
    assert (report.partial, report.sample_count) == (True, 0)
    assert report.conclusion == pb.CONCLUSION_UNDECIDED
    assert {fit.status for clock in report.clock_reports for fit in clock.fits} == {pb.Fit.STATUS_NO_SAMPLE}


def test_without_a_failure_nothing_is_invented(faults: Any, tmp_path: Path) -> None:
    batches = [faults.batch(0, [(i, 1, 10) for i in range(100)])]
    report = reported(faults, tmp_path, [*batches, faults.end(batches)])[-1].report
    assert report.conclusion == pb.CONCLUSION_UNDECIDED
    assert {fit.status for clock in report.clock_reports for fit in clock.fits} == {pb.Fit.STATUS_NO_FAILURE}
    assert not any(fit.median.HasField("value") for clock in report.clock_reports for fit in clock.fits)
    # One-sided exact bound: 1 - 0.05 ** (1 / 100).
    assert report.failure_share.upper == pytest.approx(1 - 0.05**0.01, rel=1e-9)


def test_every_number_of_a_report_is_legal_in_json(faults: Any, tmp_path: Path) -> None:
    batches = [faults.batch(0, rows(0, 90))]
    for response in reported(faults, tmp_path, [*batches, faults.end(batches)]):
        text = json_format.MessageToJson(response)
        assert "NaN" not in text
        assert json_format.Parse(text, pb.CreateReportResponse()) == response


def test_progress_comes_at_a_bounded_rate(faults: Any, tmp_path: Path) -> None:
    """Fifty batches within half a second are a handful of fits, and the last sees all of them."""
    batches = [faults.batch(i, rows(10 * i, 10 * i + 10)) for i in range(50)]
    script = [step for batch in batches for step in (batch, faults.wait(0.01))]
    responses = reported(faults, tmp_path, [*script, faults.end(batches)], pace=Pace(shortest=0.3))
    counts = [response.progress.outcome_count for response in responses[:-1]]
    assert counts == sorted(counts)
    assert counts[-1] == 500
    assert len(counts) <= 8


def test_fits_do_not_hold_up_other_calls(faults: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that lasts until another call has been answered can only end if both run at once."""
    answered = threading.Event()
    make_report = reporting.make_report

    def slow(*arguments: Any) -> Any:
        assert answered.wait(20), "the event loop was blocked by a fit"
        return make_report(*arguments)

    monkeypatch.setattr(reporting, "make_report", slow)
    batches = [faults.batch(0, rows(0, 30))]

    async def main() -> None:
        async with (
            faults.server([*batches, faults.end(batches)]) as attack,
            stub_for(attack.address, tmp_path) as stub,
        ):
            call = stub.CreateReport(create())
            while (await call.read()).progress.outcome_count < 30:
                pass
            await stub.ListReports(pb.ListReportsRequest(), timeout=60)
            answered.set()
            assert (await call.read()).WhichOneof("event") == "report"

    asyncio.run(main())


def test_a_client_that_leaves_ends_the_reading(faults: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            faults.server([faults.batch(0, rows(0, 30)), faults.stall()]) as attack,
            stub_for(attack.address, tmp_path) as stub,
        ):
            call = stub.CreateReport(create())
            while not (await call.read()).progress.outcome_count:
                pass
            assert attack.open_streams == 1
            call.cancel()
            deadline = time.monotonic() + 3
            while attack.open_streams:
                assert time.monotonic() < deadline, "the reading goes on without a reader"
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_quiet_job_gives_signs_of_life(faults: Any, tmp_path: Path) -> None:
    responses = reported(faults, tmp_path, [faults.wait(0.4), faults.end([])], pace=Pace(quiet=0.1))
    assert sum(response.WhichOneof("event") == "progress" for response in responses) >= 3


def test_heartbeats_do_not_replace_signs_of_life(faults: Any, tmp_path: Path) -> None:
    """A model that trains for an hour sends many heartbeats and no outcome; the client must hear something too."""
    beats = [step for _ in range(20) for step in (faults.wait(0.02), attack_pb.Heartbeat(attack_job=faults.job()))]
    responses = reported(faults, tmp_path, [*beats, faults.end([])], pace=Pace(quiet=0.1))
    assert 3 <= sum(response.WhichOneof("event") == "progress" for response in responses) <= 8


def test_a_report_that_cannot_be_kept_is_still_handed_out(
    faults: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ReportStore, "put", full)
    batches = [faults.batch(0, rows(0, 30))]
    report = reported(faults, tmp_path, [*batches, faults.end(batches)])[-1].report
    assert "No space left on device" in report.limitations[-1]
    assert report.failed_count


@pytest.mark.parametrize("when", ["before", "while read"])
def test_a_failed_job_gives_its_own_message(faults: Any, tmp_path: Path, when: str) -> None:
    lost = faults.job(FAILED, failure_message="the training diverged; lower the learning rate")
    running = faults.job(2)
    failure = not_reported(
        faults,
        [faults.end([], lost)],
        jobs=[lost if when == "before" else running],
        folder=tmp_path,
    )
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_FAILED")
    assert failure.message.endswith("nothing to report: the training diverged; lower the learning rate")


def test_a_job_that_only_trained_has_no_report(faults: Any, tmp_path: Path) -> None:
    trained = faults.job(3)
    trained.spec.attack = "none"
    failure = not_reported(faults, [faults.end([], trained)], jobs=[trained], folder=tmp_path)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert "trained a model and attacked nothing" in failure.message


def test_an_unknown_job_is_named(faults: Any, tmp_path: Path) -> None:
    failure = not_reported(faults, request=create("job-9"), folder=tmp_path)
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    assert "'job-9'" in failure.message


def test_lost_outcomes_end_the_report(faults: Any, tmp_path: Path) -> None:
    failure = not_reported(faults, [faults.batch(1, rows(0, 5))], folder=tmp_path)
    assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, "OUTCOMES_CORRUPT")


def test_rows_that_are_no_outcomes_end_the_report(faults: Any, tmp_path: Path) -> None:
    bad = faults.batch(0, rows(0, 5))
    bad.seconds_lower[1] = math.nan
    failure = not_reported(faults, [bad, faults.stall()], folder=tmp_path)
    assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, "OUTCOMES_CORRUPT")
    assert "seconds_lower must be finite" in failure.message


def test_no_attack_service_is_said_soon(tmp_path: Path) -> None:
    async def main() -> Failure:
        async with stub_for("127.0.0.1:1", tmp_path) as stub:
            return await refused(stub.CreateReport(create()))

    failure = asyncio.run(main())
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "ATTACK_SERVICE_UNAVAILABLE")


# --- Calls that need no attack service


def asked(folder: Path, ask: Callable[[Any], Any]) -> Any:
    async def main() -> Any:
        async with stub_for("127.0.0.1:1", folder) as stub:
            return await ask(stub)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("call", "request_", "code", "field"),
    [
        ("CreateReport", pb.CreateReportRequest(), "INVALID_ARGUMENT", "attack_job_ids"),
        ("CreateReport", create(confidence_level=2.0), "INVALID_ARGUMENT", "options.confidence_level"),
        ("GetReport", pb.GetReportRequest(), "INVALID_ARGUMENT", "report_id"),
        ("GetReport", pb.GetReportRequest(report_id="nope"), "NOT_FOUND", ""),
        ("ListReports", pb.ListReportsRequest(page_size=1001), "INVALID_ARGUMENT", "page_size"),
        ("ListReports", pb.ListReportsRequest(page_token="?"), "INVALID_ARGUMENT", "page_token"),
        ("PlanSamples", pb.PlanSamplesRequest(), "INVALID_ARGUMENT", "distribution"),
        ("PlanSamples", pb.PlanSamplesRequest(distribution=1), "INVALID_ARGUMENT", "scale"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_requests_name_their_field(tmp_path: Path, call: str, request_: Any, code: str, field: str) -> None:
    failure = asked(tmp_path, lambda stub: refused(getattr(stub, call)(request_)))
    assert (failure.code.name, failure.field) == (code, field)


def test_samples_are_planned(tmp_path: Path) -> None:
    request = pb.PlanSamplesRequest(distribution=1, scale=1.0, failure_share=0.7, check_count=10, interval_factor=1.1)
    plan = asked(tmp_path, lambda stub: stub.PlanSamples(request))
    assert plan.median_sample_count > 0
    assert plan.HasField("expected_sample_count")


def fitted(folder: Path, *requests: pb.FitOutcomesRequest) -> Any:
    return asked(folder, lambda stub: stub.FitOutcomes(iter(requests)))


def not_fitted(folder: Path, *requests: pb.FitOutcomesRequest) -> Failure:
    failure: Failure = asked(folder, lambda stub: refused(stub.FitOutcomes(iter(requests))))
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    return failure


def with_options(**options: Any) -> pb.FitOutcomesRequest:
    return pb.FitOutcomesRequest(options=pb.ReportOptions(**options))


def with_outcomes(batch: Any) -> pb.FitOutcomesRequest:
    return pb.FitOutcomesRequest(outcome_batch=batch)


def with_rows(**columns: Any) -> pb.FitOutcomesRequest:
    return pb.FitOutcomesRequest(observation_batch=pb.ObservationBatch(**columns))


def test_exponential_times_have_the_rate_that_can_be_derived(tmp_path: Path) -> None:
    """Exact and right-censored rows: the maximum likelihood mean is exposure / failures = (1 + 2 + 3 + 4) / 3."""
    response = fitted(
        tmp_path,
        with_options(distributions=[4]),
        with_rows(duration_lower=[1, 2], duration_upper=[1, 2]),
        with_rows(duration_lower=[3, 4], duration_upper=[3, math.inf]),
    )
    assert (response.observation_count, response.failure_count) == (4, 3)
    assert response.fits[0].expected.value == pytest.approx(10 / 3, rel=1e-8)


def test_observations_are_of_any_origin_unless_their_client_says_what_they_count(tmp_path: Path) -> None:
    """So that who fits a hospital's data is not told to raise epsilon."""
    unfailed = with_rows(duration_lower=[5.0, 6.0], duration_upper=[math.inf, math.inf])
    patients = fitted(tmp_path, with_options(), unfailed).fits[0]
    assert patients.clock == pb.CLOCK_UNSPECIFIED
    assert patients.status_message.endswith("; observe for longer")
    queries = fitted(tmp_path, with_options(clock=pb.CLOCK_QUERIES), unfailed).fits[0]
    assert queries.clock == pb.CLOCK_QUERIES
    assert "raise epsilon" in queries.status_message


def test_outcomes_sent_in_pieces_are_fitted_as_a_whole(faults: Any, tmp_path: Path) -> None:
    whole = fitted(tmp_path, with_options(), with_outcomes(faults.batch(0, rows(0, 90))))
    parts = [with_outcomes(faults.batch(i, rows(30 * i, 30 * i + 30))) for i in range(3)]
    assert fitted(tmp_path, with_options(), *parts) == whole
    assert (whole.observation_count, whole.misclassified_count) == (81, 9)


def test_outcomes_of_two_jobs_may_share_sample_numbers(faults: Any, tmp_path: Path) -> None:
    both = [with_outcomes(faults.batch(0, rows(0, 60), spec_digest=digest)) for digest in ("s", "t")]
    assert fitted(tmp_path, with_options(), *both).observation_count == 108


def test_samples_in_flight_count_as_censored(faults: Any, tmp_path: Path) -> None:
    batch = faults.batch(0, rows(0, 60), in_flight=[(60, 3), (61, 4)])
    assert fitted(tmp_path, with_options(), with_outcomes(batch)).observation_count == 54 + 2


def test_submissions_that_cannot_be_used_name_their_field(faults: Any, tmp_path: Path) -> None:
    good, ragged, unlike = (faults.batch(0, rows(0, 12)) for _ in range(3))
    flying = faults.batch(0, rows(0, 12), in_flight=[(60, 3)])
    flying.in_flight.seconds[0] = -1.0
    del ragged.label[0]
    unlike.verdict[0] = 9
    row = with_rows(duration_lower=[1], duration_upper=[2])
    nan = with_rows(duration_lower=[math.nan], duration_upper=[2])
    many = with_rows(
        duration_lower=[1], duration_upper=[2], covariates=[pb.Covariate(name=str(i), value=[0]) for i in range(101)]
    )
    wrong: dict[str, list[list[pb.FitOutcomesRequest]]] = {
        "options": [[], [row], [with_outcomes(good)], [with_options(), row, with_options()]],
        "options.clock": [[with_options(clock=7)]],
        "content": [[with_options()], [with_options(), pb.FitOutcomesRequest()], [with_options(), with_rows()]],
        "observation_batch": [[with_options(), with_outcomes(good), row]],
        "outcome_batch": [[with_options(), row, with_outcomes(good)]],
        "outcome_batch.label": [[with_options(), with_outcomes(ragged)]],
        "outcome_batch.verdict": [[with_options(), with_outcomes(unlike)]],
        "outcome_batch.in_flight.seconds": [[with_options(), with_outcomes(flying)]],
        "outcome_batch.sample_index": [[with_options(), with_outcomes(good), with_outcomes(good)]],
        "observation_batch.duration_lower": [[with_options(), nan]],
        "observation_batch.covariates": [[with_options(), many]],
    }
    for field, streams in wrong.items():
        for stream in streams:
            failure = not_fitted(tmp_path, *stream)
            assert (failure.field, bool(failure.message)) == (field, True)


def test_more_rows_than_allowed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("survival_service.adapters.submission.MOST_ROWS", 3)
    row = with_rows(duration_lower=[1, 1], duration_upper=[2, 2])
    failure = not_fitted(tmp_path, with_options(), row, row)
    assert "more than 3 rows" in failure.message


def test_a_heartbeat_updates_the_job(faults: Any, tmp_path: Path) -> None:
    """A job that was queued when the report began has its model only later."""
    queued = attack_pb.AttackJob(attack_job_id=JOB, state=1, spec=faults.job().spec)
    batches = [faults.batch(0, rows(0, 30))]
    script = [attack_pb.Heartbeat(attack_job=queued), *batches, faults.end(batches)]
    report = reported(faults, tmp_path, script, jobs=[queued])[-1].report
    assert report.jobs[0].clean_accuracy == 0.95
    assert report.costs.training_duration.seconds == 60


def until(factor: float, quantity: pb.Quantity.ValueType = pb.QUANTITY_MEDIAN, **more: Any) -> pb.CreateReportRequest:
    """A request for a report of the one job, as precise as this."""
    request = create(**more)
    request.precision.CopyFrom(pb.Precision(interval_factor=factor, quantity=quantity))
    return request


def test_a_job_that_tells_enough_is_said_to_and_its_report_has_what_was_saved(faults: Any, tmp_path: Path) -> None:
    batches = [faults.batch(0, rows(0, 200), in_flight=[(200, 2)]), faults.batch(1, rows(200, 210))]
    job = faults.job(CANCELED, sample_count=1000)
    responses = reported(
        faults, tmp_path, [batches[0], faults.wait(0.3), batches[1], faults.end(batches, job)], request=until(1.5),
        jobs=[faults.job(sample_count=1000)], pace=Pace(shortest=0.05),
    )  # fmt: skip
    met = next(response.progress for response in responses if response.progress.stopping.met)
    assert met.outcome_count == 200
    (look,) = met.stopping.looks
    assert (look.failure_count, look.spent_error) == (met.failed_count, pytest.approx(0.05))
    report = responses[-1].report
    assert report.stopping.looks == met.stopping.looks
    assert report.stopping.met
    assert report.partial
    assert report.stopping.saved_sample_count == 1000 - 210
    # 95 % of a thousand are at risk, and a sample spends the mean up to the budget.
    spent = report.clock_reports[0].fits[0].restricted_mean.value
    at_risk = report.failed_count + report.survived_count
    assert report.stopping.saved_query_count == pytest.approx((950 - at_risk) * spent, rel=0.05)
    assert report.stopping.message.startswith("stopped as planned after 1 look")
    said = [sentence for sentence in report.limitations if "210 of 1000" in sentence]
    assert len(said) == 1
    assert "stopped as planned" in said[0]


def test_a_job_that_ends_before_it_told_enough_says_what_would(faults: Any, tmp_path: Path) -> None:
    batches = [faults.batch(0, rows(0, 200))]
    report = reported(faults, tmp_path, [*batches, faults.end(batches)], request=until(1.01))[-1].report
    assert not report.stopping.met
    assert report.stopping.looks[-1].spent_error == pytest.approx(0.05)
    assert (report.stopping.saved_sample_count, report.stopping.saved_query_count) == (0, 0)
    assert "samples at risk would be enough" in report.stopping.message


def test_looks_of_an_earlier_call_are_not_spent_again(faults: Any, tmp_path: Path) -> None:
    batches = [faults.batch(0, rows(0, 200), in_flight=[(200, 2)])]
    request = until(1.15)
    earlier = pb.Look(failure_count=40, sample_count=60, spent_error=0.02, information=60.0, interval_factor=1.4)
    earlier.estimate.value = 5.0
    request.precision.earlier_looks.append(earlier)
    report = reported(faults, tmp_path, [*batches, faults.end(batches)], request=request)[-1].report
    first, last = report.stopping.looks
    assert first == earlier
    # What is spent anew is the difference; were the looks independent, the value would be that of this error alone.
    assert 0.02 < last.spent_error <= 0.05
    assert 1.96 < last.critical_value < normal_quantile(1 - (last.spent_error - 0.02))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (until(1.0), "precision.interval_factor"),
        (until(1.2, pb.QUANTITY_RESTRICTED_MEAN, clock=pb.CLOCK_SECONDS), "precision.quantity"),
        (until(1.2, clock=pb.CLOCK_DISTANCE), "precision"),
        (pb.CreateReportRequest(attack_job_ids=["a", "b"], precision=pb.Precision(interval_factor=1.2)), "precision"),
    ],
)
def test_a_precision_that_cannot_be_had_names_its_field(tmp_path: Path, request_: Any, field: str) -> None:
    async def main() -> Failure:
        async with stub_for("127.0.0.1:1", tmp_path) as stub:
            return await refused(stub.CreateReport(request_))

    failure = asyncio.run(main())
    assert failure.field == field


def test_two_models_to_tell_apart_are_planned(tmp_path: Path) -> None:
    request = pb.PlanSamplesRequest(
        distribution=pb.DISTRIBUTION_WEIBULL, scale=0.6, failure_share=0.7, check_count=10, interval_factor=1.1,
        comparison=pb.Comparison(time_ratio=1.5),
    )  # fmt: skip
    found = asked(tmp_path, lambda stub: stub.PlanSamples(request)).comparison
    assert found.first_sample_count == found.second_sample_count > 0
    assert 0 < found.second_failure_share < 0.7
