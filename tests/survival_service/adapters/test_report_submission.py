"""What a client submits for a report: options, then a job with its outcomes, or experiments; nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from afr.survival.v1 import survival_service_pb2 as pb

from survival_service.adapters.submission import ReportSubmission
from survival_service.adapters.wire import batch_messages, job_messages, report_messages
from survival_service.errors import InvalidRequest
from survival_service.outcome_table import OutcomeTable
from survival_service.reporting import make_report
from survival_service.reports import ReportOptions

OPTIONS = pb.ReportOutcomesRequest(options=pb.ReportOptions())
JOB = pb.ReportOutcomesRequest(
    job=pb.SubmittedJob(attack_job_id="outcomes.csv", training_sample_count=100, epoch_count=2)
)
ROWS = [(i, 2 if i < 20 else 1 if i < 30 else 3, i % 5 + 1 if i < 30 else 0) for i in range(34)]


def experiment_request(**columns: Any) -> pb.ReportOutcomesRequest:
    values = {
        "group": ["a", "b"],
        "sample_count": [10, 10],
        "failure_count": [5, 6],
        "attack_seconds": [1, 2],
    } | columns
    return pb.ReportOutcomesRequest(experiment_batch=pb.ExperimentBatch(**values))


def report_of(*requests: pb.ReportOutcomesRequest) -> Any:
    submission = ReportSubmission()
    for request in requests:
        submission.add(request)
    return submission.report()


def test_a_submitted_job_gets_the_report_of_its_outcomes(faults: Any) -> None:
    batches = [faults.batch(0, ROWS[:15]), faults.batch(1, ROWS[15:])]
    found = report_of(OPTIONS, JOB, *(pb.ReportOutcomesRequest(outcome_batch=batch) for batch in batches))
    table = OutcomeTable()
    for batch in batches:
        table.add(batch_messages.outcome_columns(batch))
    facts = job_messages.submitted_job(JOB.job, sample_count=len(ROWS))
    direct = make_report([(facts, table)], ReportOptions())
    assert found.clock_reports == direct.clock_reports
    assert (found.failed_count, found.survived_count, found.misclassified_count) == (20, 10, 4)
    assert not found.partial
    # Epochs were given, seconds were not: one clock has a rate, and the report says why the other has none.
    assert found.clock_reports[0].cost_normalized_failure_rate.value is not None
    assert found.clock_reports[1].cost_normalized_failure_rate.value is None
    assert any("--training-seconds" in sentence for sentence in found.limitations)
    assert any("stated by whoever submitted" in sentence for sentence in found.limitations)


def test_experiments_come_in_as_many_batches_as_one_likes() -> None:
    covariates = [pb.Covariate(name="x", value=[1, 2])]
    whole = report_of(OPTIONS, experiment_request(covariates=covariates), experiment_request(covariates=covariates))
    assert whole.sample_count == 40
    assert [group.experiment_count for group in whole.experiment_groups] == [2, 2]
    assert report_messages.from_proto(report_messages.report(whole), type(whole)) == whole
    plain = report_of(OPTIONS, experiment_request())
    assert (plain.sample_count, plain.failed_count) == (20, 11)


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "options"),
        ([JOB], "options"),
        ([OPTIONS], "content"),
        ([OPTIONS, OPTIONS], "options"),
        ([OPTIONS, pb.ReportOutcomesRequest()], "content"),
        ([OPTIONS, JOB, JOB], "job"),
        ([OPTIONS, experiment_request(), JOB], "job"),
        ([OPTIONS, JOB, experiment_request()], "experiment_batch"),
        ([OPTIONS, pb.ReportOutcomesRequest(job=pb.SubmittedJob())], "job.attack_job_id"),
        ([OPTIONS, experiment_request(failure_count=[5, 11])], "experiment_batch.failure_count"),
        ([OPTIONS, experiment_request(group=["a"])], "experiment_batch.group"),
        ([OPTIONS, experiment_request(attack_seconds=[1])], "experiment_batch.attack_seconds"),
        ([OPTIONS, experiment_request(covariates=[pb.Covariate(name="x", value=[1])])], "experiment_batch.covariates"),
        ([OPTIONS, experiment_request(), experiment_request(covariates=[pb.Covariate(name="x", value=[1, 2])])],
         "experiment_batch.covariates"),
        ([OPTIONS, experiment_request(covariates=[pb.Covariate(name=str(i), value=[1, 2]) for i in range(101)])],
         "experiment_batch.covariates"),
    ],
)  # fmt: skip
def test_what_cannot_be_reported_on_is_refused_by_its_field(
    requests: list[pb.ReportOutcomesRequest], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        report_of(*requests)
    assert refused.value.field == field


def test_outcomes_need_their_job_and_come_once(faults: Any) -> None:
    batch = pb.ReportOutcomesRequest(outcome_batch=faults.batch(0, ROWS))
    with pytest.raises(InvalidRequest) as refused:
        report_of(OPTIONS, batch)
    assert refused.value.field == "outcome_batch"
    with pytest.raises(InvalidRequest, match="came twice"):
        report_of(OPTIONS, JOB, batch, batch)
