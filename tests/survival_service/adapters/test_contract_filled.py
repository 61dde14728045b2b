"""Every field of the contract's report is filled by some report that is really made: none is a promise alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from afr.survival.v1 import survival_service_pb2 as pb
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from survival_service.adapters.wire import report_messages
from survival_service.aggregating import report_experiments
from survival_service.distributions import Distribution
from survival_service.experiments import Experiments
from survival_service.jobs import JobFacts
from survival_service.observations import Clock, InFlightColumns, Observations, Verdict
from survival_service.outcome_table import OutcomeTable
from survival_service.reporting import fit_observations, make_progress, make_report
from survival_service.reports import ReportOptions
from survival_service.sequential import Monitor
from survival_service.stopping import look_at

Job = Callable[..., tuple[JobFacts, OutcomeTable]]
Checks = Callable[..., list[int | None]]


def fields_below(descriptor: Descriptor) -> Iterator[str]:
    """The full names of all fields of a message and of the contract's messages that it is made of."""
    seen, waiting = set(), [descriptor]
    while waiting:
        message = waiting.pop()
        if message.full_name in seen or not message.full_name.startswith("afr.survival."):
            continue
        seen.add(message.full_name)
        if message.GetOptions().map_entry:
            continue
        for field in message.fields:
            yield field.full_name
            if field.message_type:
                waiting.append(field.message_type)


def filled(message: Message) -> Iterator[str]:
    for field, content in message.ListFields():
        yield field.full_name
        if field.message_type and not field.message_type.GetOptions().map_entry:
            for part in content if field.is_repeated else [content]:
                yield from filled(part)


def test_every_field_of_a_report_is_filled_by_one_that_is_really_made(job: Job, simulated_checks: Checks) -> None:
    every = ReportOptions(
        distributions=(Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.GENERALIZED_GAMMA),
        defender_price_usd_per_hour=2.0,
        attacker_price_usd_per_hour=1.0,
    )
    warned = {"randomized": True, "defence": "jpeg", "defence_parameters": {"quality": 50.0}}
    checks = [*simulated_checks(60), None, 0, 0]
    compared = [
        # A clock too coarse to see the survivors' time.
        job(checks, seconds_per_check=[0.0 if check is None else 0.01 for check in checks]),
        job(
            [*simulated_checks(60, seed=1, scale=12.0), 0, 0],
            attack_job_id="job-2",
            weights_digest="b" * 64,
            seconds_per_check=0.03,
            defended_accuracy=0.9,
            clean_rejection_share=0.1,
            **warned,
        ),
    ]
    few, stopped = [job([1, 2, 5, *[None] * 60])], job([*simulated_checks(120), 0], sample_count=200, canceled=True)
    # None of the harder attack's samples fails, and the number of steps tells the two jobs apart as well.
    parted = [
        job(simulated_checks(40)),
        job([None] * 40, attack_job_id="job-2", attack="fgm", epoch_count=2, engine="art", seconds_per_check=0.0),
    ]
    stopped_looks = look_at(Monitor(2.0), *stopped, Clock.QUERIES)
    running = OutcomeTable()
    columns = stopped[1].columns()
    verdict = np.where(columns.verdict == Verdict.SURVIVED, Verdict.REJECTED, columns.verdict)
    one = np.array([500])
    running.add(replace(columns, verdict=verdict), InFlightColumns(one, one, one, one, one * 0.01))
    rejecting = [(stopped[0], running)]
    sweep = [
        job(
            simulated_checks(60, seed=seed, scale=8.0 / epsilon),
            attack_job_id=f"job-{seed}",
            attack_parameters={"epsilon": epsilon, "max_iterations": 20.0},
        )
        for seed, epsilon in enumerate((0.5, 1.0, 2.0))
    ]
    counts, seconds = np.array([100.0, 100.0]), np.array([10.0, 12.0])
    experiments = Experiments(("a", "b"), counts, counts / 2, counts / 10, seconds, seconds / 20, np.empty((2, 0)))
    generator = np.random.default_rng(3)
    time, x = generator.weibull(1.4, 150), generator.integers(0, 2, 150).astype(float)
    rows = Observations.of(time, time, None, {"x": x, "twice": 2 * x}, [str(i // 2) for i in range(150)])
    never = Observations.of(time, np.where(x > 0, time, np.inf), None, {"x": x}, None)
    plain = ReportOptions(distributions=(Distribution.WEIBULL,))
    sent: list[Message] = [
        report_messages.report(
            replace(make_report(compared, every), report_id="r", create_time=datetime(2026, 1, 1, tzinfo=UTC))
        ),
        report_messages.report(make_report(few, plain)),
        report_messages.report(make_report(parted, plain)),
        report_messages.report(make_report([stopped], plain, stopped_looks)),
        report_messages.report(make_report(rejecting, plain)),
        report_messages.report(make_report(sweep, replace(plain, clock=Clock.DISTANCE))),
        report_messages.report(report_experiments(experiments, plain)),
        report_messages.progress(
            make_progress(rejecting, plain, monitor=look_at(Monitor(1.01), *stopped, Clock.QUERIES))
        ),
        report_messages.fits(fit_observations(rows, plain)),
        report_messages.fits(fit_observations(never, plain)),
    ]
    known = set(fields_below(pb.Report.DESCRIPTOR)) | set(fields_below(pb.ReportProgress.DESCRIPTOR))
    missing = sorted(known - {name for message in sent for name in filled(message)})
    assert not missing, f"no report fills {', '.join(missing)}"
