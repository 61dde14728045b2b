"""One test for the ledger in memory and the one in Redis, then what only the one in Redis promises."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from afr.outcome.v1 import outcome_pb2

from attack_service.adapters import ledger as ledger_module
from attack_service.adapters import wire
from attack_service.adapters.keys import OPEN, JobKeys
from attack_service.adapters.ledger import RedisLedger, Refusal, WorkerStopping
from attack_service.adapters.outcome_log import start
from attack_service.adapters.owners import owner_name
from attack_service.errors import AttemptFenced, OutcomesLost
from attack_service.jobs import Ledger, MemoryLedger, ModelRecord, Phase, Preparation, Progress, State
from attack_service.outcomes import Verdict

RECORD = ModelRecord("digest", 1.5, 1437, 6, 0.96, 360, 25_000_000, 10, "cpu", "cpu", False)
PREPARATION = Preparation(RECORD, "dataset", (3, -1, 9))


@pytest.fixture(params=["memory", "redis"])
def ledger_and_cancel(request, jobs, spec) -> tuple[Ledger, Callable[[], None]]:
    """A ledger, and what asks it to cancel."""
    if request.param == "memory":
        memory = MemoryLedger()
        return memory, memory.request_cancel
    job_id = jobs.create(spec)
    return jobs.begin(job_id), lambda: jobs.call(lambda store, log: store.cancel(job_id))


def test_a_ledger_knows_what_was_recorded(ledger_and_cancel, make_outcome, make_in_flight) -> None:
    ledger, _ = ledger_and_cancel
    assert ledger.recorded_verdicts() == {}
    ledger.model_ready(PREPARATION)
    ledger.record([make_outcome(5), make_outcome(2, Verdict.SURVIVED)], [make_in_flight(3)], 0.1)
    ledger.record([], [make_in_flight(3)], 0.1)
    ledger.record([make_outcome(3, Verdict.MISCLASSIFIED)], [], 0.1)
    assert ledger.recorded_verdicts() == {5: Verdict.FAILED, 2: Verdict.SURVIVED, 3: Verdict.MISCLASSIFIED}


def test_a_sample_is_recorded_once(ledger_and_cancel, make_outcome) -> None:
    ledger, _ = ledger_and_cancel
    ledger.record([make_outcome(5)], [], 0.1)
    with pytest.raises(ValueError, match=r"twice.*5"):
        ledger.record([make_outcome(4), make_outcome(5)], [], 0.1)
    with pytest.raises(ValueError, match="twice"):
        ledger.record([make_outcome(7), make_outcome(7)], [], 0.1)
    assert ledger.recorded_verdicts() == {5: Verdict.FAILED}


def test_a_cancel_is_seen(ledger_and_cancel, wait_until) -> None:
    ledger, cancel = ledger_and_cancel
    assert not ledger.cancel_requested()
    cancel()
    wait_until(ledger.cancel_requested, 2)


def test_warnings_and_progress_are_taken(ledger_and_cancel) -> None:
    ledger, _ = ledger_and_cancel
    ledger.warn("barely better than chance")
    ledger.warn("barely better than chance")
    for done in range(5):
        ledger.progress(Progress(Phase.ATTACKING, done, 4))


@pytest.fixture
def job_id(jobs, spec) -> str:
    return jobs.create(spec)


def test_what_a_run_says_about_itself_is_in_the_job(jobs, job_id) -> None:
    ledger = jobs.begin(job_id)
    ledger.model_ready(PREPARATION)
    ledger.warn("second thoughts")
    ledger.warn("a first")
    ledger.warn("second thoughts")
    ledger.progress(Progress(Phase.TRAINING, 1, 10, 3.5, 1, 0.25, 0.5))
    # Too soon after the last one, but the end of a phase.
    ledger.progress(Progress(Phase.TRAINING, 10, 10))
    job = jobs.get(job_id).job
    assert job.state is State.RUNNING
    assert job.model_record == RECORD
    assert job.warnings == ("second thoughts", "a first")
    assert job.progress == Progress(Phase.TRAINING, 10, 10)
    assert (job.attempt_count, job.start_time is not None, job.end_time) == (1, True, None)


def test_progress_is_thinned_out(jobs, job_id) -> None:
    ledger = jobs.begin(job_id)
    for done in range(200):
        ledger.progress(Progress(Phase.TRAINING, done, 1000))
    progress = jobs.get(job_id).job.progress
    assert progress is not None
    assert progress.done_count < 200


def read_batches(jobs, job_id: str) -> list[outcome_pb2.OutcomeBatch]:
    entries = jobs.call(lambda store, log: log.read(job_id, start(1)))
    return [outcome_pb2.OutcomeBatch.FromString(entry.payload) for entry in entries]


def test_batches_are_numbered_without_gaps_and_named_by_what_is_done(
    jobs, job_id, client, spec, make_outcome, make_in_flight
) -> None:
    ledger = jobs.begin(job_id)
    ledger.model_ready(PREPARATION)
    ledger.record([], [make_in_flight(1), make_in_flight(2)], 0.5)
    ledger.record([make_outcome(1)], [make_in_flight(2)], 0.5)
    ledger.record([make_outcome(2), make_outcome(0)], [], 0.5)
    entries = client.xrange(JobKeys(job_id).shard(0).outcomes)
    assert [entry_id for entry_id, _ in entries] == [b"0-1", b"1-0", b"3-0"]
    batches = read_batches(jobs, job_id)
    assert [batch.sequence for batch in batches] == [0, 1, 2]
    assert [list(batch.sample_index) for batch in batches] == [[], [1], [2, 0]]
    assert [list(batch.in_flight.sample_index) for batch in batches] == [[1, 2], [2], []]
    assert {batch.attempt for batch in batches} == {1}
    assert {(batch.weights_digest, batch.dataset_digest, batch.spec_digest) for batch in batches} == {
        ("digest", "dataset", spec.digest)
    }
    tally = jobs.get(job_id).tally
    assert (tally.outcome_count, tally.failed_count) == (3, 3)


def test_a_batch_fits_a_message_however_many_samples_end_at_once(jobs, job_id, make_outcome, make_in_flight) -> None:
    ledger = jobs.begin(job_id)
    outcomes = [make_outcome(index, Verdict.MISCLASSIFIED) for index in range(20_000)]
    ledger.record(outcomes, [make_in_flight(30_000)], 0.5)
    batches = read_batches(jobs, job_id)
    assert [index for batch in batches for index in batch.sample_index] == list(range(20_000))
    assert [batch.sequence for batch in batches] == list(range(len(batches)))
    assert max(batch.ByteSize() for batch in batches) < 2**20
    assert jobs.get(job_id).tally.outcome_count == 20_000


def test_snapshots_are_thinned_out_but_the_last_one_is_not(jobs, job_id, make_in_flight) -> None:
    ledger = jobs.begin(job_id)
    for _ in range(50):
        ledger.record([], [make_in_flight(1)], 0.5)
    ledger.record([], [], 0.5)
    ledger.record([], [], 0.5)
    batches = read_batches(jobs, job_id)
    assert len(batches) < 10
    assert not batches[-1].in_flight.sample_index
    assert batches[-2].in_flight.sample_index


def test_a_second_attempt_continues_the_first(jobs, job_id, client, make_outcome) -> None:
    first = jobs.begin(job_id)
    first.record([make_outcome(1), make_outcome(4, Verdict.SURVIVED)], [], 0.5)
    client.delete(JobKeys(job_id).shard(0).lease)
    second = jobs.begin(job_id)
    assert second.attempt == 2
    assert second.recorded_verdicts() == {1: Verdict.FAILED, 4: Verdict.SURVIVED}
    second.record([make_outcome(0)], [], 0.5)
    batches = read_batches(jobs, job_id)
    assert [(batch.sequence, batch.attempt) for batch in batches] == [(0, 1), (1, 2)]
    tally = jobs.get(job_id).tally
    assert (tally.failed_count, tally.survived_count) == (2, 1)


def test_an_attempt_back_from_the_dead_cannot_write(jobs, job_id, client, make_outcome) -> None:
    zombie = jobs.begin(job_id)
    zombie.record([make_outcome(1)], [], 0.5)
    client.delete(JobKeys(job_id).shard(0).lease)
    jobs.begin(job_id)
    for write in (
        lambda: zombie.record([make_outcome(2)], [], 0.5),
        lambda: zombie.model_ready(PREPARATION),
        lambda: zombie.progress(Progress(Phase.ATTACKING, 2, 2)),
        lambda: zombie.warn("boo"),
        lambda: zombie.finish(State.SUCCEEDED),
        lambda: zombie.release(),
    ):
        with pytest.raises(AttemptFenced, match="superseded"):
            write()
    assert not zombie.renew(client)
    stored = jobs.get(job_id)
    assert stored.job.state is State.RUNNING
    assert stored.job.warnings == ()
    assert [list(batch.sample_index) for batch in read_batches(jobs, job_id)] == [[1]]


def test_a_job_that_was_deleted_stops_its_attempt(jobs, job_id, make_outcome) -> None:
    ledger = jobs.begin(job_id)
    ledger.finish(State.SUCCEEDED)
    jobs.call(lambda store, log: store.delete(job_id))
    with pytest.raises(AttemptFenced, match="deleted"):
        ledger.record([make_outcome(1)], [], 0.5)


def test_two_processes_cannot_hold_a_shard(jobs, job_id, client) -> None:
    jobs.begin(job_id)
    client.set(JobKeys(job_id).shard(0).lease, "another-machine:77")
    assert jobs.begin(job_id) is Refusal.HELD


def test_the_lease_of_a_dead_process_of_this_machine_does_not_hold(jobs, job_id, client) -> None:
    ended = subprocess.Popen([sys.executable, "-ISc", ""])
    ended.wait()
    host = owner_name().rpartition(":")[0]
    jobs.begin(job_id)
    client.set(JobKeys(job_id).shard(0).lease, f"{host}:{ended.pid}")
    assert jobs.begin(job_id).attempt == 2
    assert client.get(JobKeys(job_id).shard(0).lease) == f"{host}:{os.getpid()}".encode()


def test_a_lease_runs_out_unless_it_is_renewed(jobs, job_id, client) -> None:
    ledger = jobs.begin(job_id)
    lease = JobKeys(job_id).shard(0).lease
    assert 0 < client.pttl(lease) <= ledger_module.LEASE_SECONDS * 1000
    client.pexpire(lease, 1000)
    assert ledger.renew(client)
    assert client.pttl(lease) > 1000


def test_a_sign_of_life_that_comes_late_holds_nothing(jobs, job_id, client) -> None:
    ledger = jobs.begin(job_id)
    ledger.release()
    assert not ledger.renew(client)
    assert not client.exists(JobKeys(job_id).shard(0).lease)


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.CANCELED])
def test_an_ended_job_is_not_begun_again_nor_ended_otherwise(jobs, job_id, client, state) -> None:
    ledger = jobs.begin(job_id)
    ledger.finish(state, "why" if state is State.FAILED else "")
    ledger.finish(State.RUNNING)
    stored = jobs.get(job_id)
    assert stored.job.state is state
    assert stored.job.failure_message == ("why" if state is State.FAILED else "")
    assert stored.job.end_time is not None
    assert not stored.held
    assert not client.sismember(OPEN, job_id)
    assert jobs.begin(job_id) is Refusal.ENDED


def test_an_unknown_job_cannot_begin(jobs) -> None:
    assert jobs.begin("no-such-job") is Refusal.ENDED


def test_a_released_job_is_queued_again_and_costs_no_attempt(jobs, job_id) -> None:
    for _ in range(5):
        ledger = jobs.begin(job_id, attempt_limit=1)
        ledger.release()
        assert jobs.get(job_id).job.state is State.QUEUED
    assert jobs.get(job_id).job.attempt_count == 5


def test_a_job_that_loses_every_worker_is_given_up(jobs, job_id, client) -> None:
    for _ in range(3):
        jobs.begin(job_id)
        client.delete(JobKeys(job_id).shard(0).lease)
    assert jobs.begin(job_id) is Refusal.ENDED
    job = jobs.get(job_id).job
    assert job.state is State.FAILED
    assert job.failure_message.startswith("3 workers in a row were lost")
    assert job.attempt_count == 3


def test_a_job_that_gets_on_may_lose_any_number_of_workers(jobs, job_id, client, make_outcome) -> None:
    for sample_index in range(6):
        jobs.begin(job_id, attempt_limit=2).record([make_outcome(sample_index)], [], 0.5)
        client.delete(JobKeys(job_id).shard(0).lease)
    assert jobs.begin(job_id, attempt_limit=2).attempt == 7


def test_a_worker_that_stops_stops_its_run_at_the_next_word(jobs, job_id, make_outcome) -> None:
    stopping = threading.Event()
    ledger = jobs.begin(job_id, stopping=stopping.is_set)
    ledger.record([make_outcome(1)], [], 0.5)
    stopping.set()
    for call in (
        lambda: ledger.record([make_outcome(2)], [], 0.5),
        lambda: ledger.progress(Progress(Phase.ATTACKING, 2, 2)),
        ledger.cancel_requested,
    ):
        with pytest.raises(WorkerStopping):
            call()
    ledger.release()
    assert jobs.get(job_id).job.state is State.QUEUED


class LosesReplies:
    """A script that runs, and whose first answer gets lost: what a broken connection makes of it."""

    def __init__(self, script: Callable[..., object]) -> None:
        self.script = script
        self.lost = False

    def __call__(self, **arguments: object) -> object:
        answer = self.script(**arguments)
        if not self.lost:
            self.lost = True
            return self.script(**arguments)
        return answer


def test_an_append_whose_reply_was_lost_is_not_repeated(jobs, job_id, make_outcome) -> None:
    ledger = jobs.begin(job_id)
    ledger._append = LosesReplies(ledger._append)
    ledger.record([make_outcome(1)], [], 0.5)
    ledger.record([make_outcome(2)], [], 0.5)
    assert ledger._append.lost
    assert [list(batch.sample_index) for batch in read_batches(jobs, job_id)] == [[1], [2]]
    assert jobs.get(job_id).tally.outcome_count == 2


class Crash:
    """What a crash does to a Redis that writes its file once a second: the last moments never happened."""

    def __init__(self, client, job_id: str) -> None:
        self._client = client
        keys, shard = JobKeys(job_id), JobKeys(job_id).shard(0)
        self._kept = {key: client.dump(key) for key in (keys.record, shard.meta, shard.outcomes)}

    def happen(self) -> None:
        for key, value in self._kept.items():
            if value is None:
                self._client.delete(key)
            else:
                self._client.restore(key, 0, value, replace=True)


def test_what_a_crashed_redis_forgot_is_written_again(jobs, job_id, client, make_outcome) -> None:
    ledger = jobs.begin(job_id)
    ledger.record([make_outcome(1)], [], 0.5)
    crash = Crash(client, job_id)
    ledger.record([make_outcome(2)], [], 0.5)
    ledger.record([make_outcome(3, Verdict.SURVIVED)], [], 0.5)
    crash.happen()
    ledger.record([make_outcome(4)], [], 0.5)
    batches = read_batches(jobs, job_id)
    assert [(batch.sequence, list(batch.sample_index)) for batch in batches] == [(0, [1]), (1, [2]), (2, [3]), (3, [4])]
    tally = jobs.get(job_id).tally
    assert (tally.failed_count, tally.survived_count) == (3, 1)


def test_the_last_outcomes_of_a_job_are_written_again_before_it_ends(jobs, job_id, client, make_outcome) -> None:
    ledger = jobs.begin(job_id)
    ledger.record([make_outcome(1)], [], 0.5)
    crash = Crash(client, job_id)
    ledger.record([make_outcome(2)], [], 0.5)
    crash.happen()
    ledger.finish(State.SUCCEEDED)
    stored = jobs.get(job_id)
    assert (stored.job.state, stored.tally.outcome_count) == (State.SUCCEEDED, 2)
    assert [list(batch.sample_index) for batch in read_batches(jobs, job_id)] == [[1], [2]]


def test_a_job_that_lost_outcomes_can_fail_but_not_succeed(jobs, job_id, client, make_outcome) -> None:
    ledger = jobs.begin(job_id)
    crash = Crash(client, job_id)
    ledger.record([make_outcome(1)], [], 0.5)
    crash.happen()
    ledger._kept.clear()
    with pytest.raises(OutcomesLost):
        ledger.finish(State.SUCCEEDED)
    ledger.finish(State.FAILED, "outcomes were lost")
    assert jobs.get(job_id).job.state is State.FAILED


def test_an_outage_however_long_does_not_make_appends_old(jobs, job_id, client, make_outcome, monkeypatch) -> None:
    ledger = jobs.begin(job_id)
    ledger.record([make_outcome(1)], [], 0.5)
    crash = Crash(client, job_id)
    ledger.record([make_outcome(2)], [], 0.5)
    crash.happen()
    monkeypatch.setattr(ledger_module, "_KEPT_SECONDS", 0.0)
    ledger.record([make_outcome(3)], [], 0.5)
    assert [list(batch.sample_index) for batch in read_batches(jobs, job_id)] == [[1], [2], [3]]


def test_a_begin_that_a_crashed_redis_forgot_is_a_begin(jobs, job_id, client, make_outcome) -> None:
    crash = Crash(client, job_id)
    ledger = jobs.begin(job_id)
    crash.happen()
    assert jobs.get(job_id).job.state is State.QUEUED
    ledger.record([make_outcome(1)], [], 0.5)
    job = jobs.get(job_id).job
    assert (job.state, job.attempt_count) == (State.RUNNING, 1)
    ledger.finish(State.SUCCEEDED)
    assert jobs.get(job_id).job.state is State.SUCCEEDED


def test_nothing_is_appended_to_a_job_that_ended_without_its_worker(jobs, job_id, client, make_outcome) -> None:
    crash = Crash(client, job_id)
    ledger = jobs.begin(job_id)
    crash.happen()
    client.delete(JobKeys(job_id).shard(0).lease)
    jobs.call(lambda store, log: store.cancel(job_id))
    with pytest.raises(AttemptFenced):
        ledger.record([make_outcome(1)], [], 0.5)
    assert read_batches(jobs, job_id) == []
    assert jobs.get(job_id).job.state is State.CANCELED


def test_what_nobody_remembers_is_lost_and_said_to_be(jobs, job_id, client, make_outcome) -> None:
    ledger = jobs.begin(job_id)
    ledger.record([make_outcome(1)], [], 0.5)
    crash = Crash(client, job_id)
    ledger.record([make_outcome(2)], [], 0.5)
    crash.happen()
    ledger._kept.clear()
    with pytest.raises(OutcomesLost, match="from batch 1 on"):
        ledger.record([make_outcome(3)], [], 0.5)


def test_a_log_with_a_hole_is_not_continued(jobs, job_id, client, make_outcome) -> None:
    ledger = jobs.begin(job_id)
    for sample_index in range(3):
        ledger.record([make_outcome(sample_index)], [], 0.5)
    client.xdel(JobKeys(job_id).shard(0).outcomes, "2-0")
    client.delete(JobKeys(job_id).shard(0).lease)
    with pytest.raises(OutcomesLost, match="batch 1 "):
        jobs.begin(job_id)


def test_a_begin_is_quick_with_a_long_log(jobs, job_id, client, make_outcome) -> None:
    ledger: RedisLedger = jobs.begin(job_id)
    for index in range(0, 1200, 2):
        ledger.record([make_outcome(index), make_outcome(index + 1)], [], 0.5)
    client.delete(JobKeys(job_id).shard(0).lease)
    asked = client.info("commandstats")["cmdstat_xrange"]["calls"]
    assert jobs.begin(job_id).recorded_verdicts().keys() == set(range(1200))
    assert client.info("commandstats")["cmdstat_xrange"]["calls"] - asked <= 4, "many batches at a time"
    rows = [row for batch in read_batches_all(jobs, job_id) for row in wire.tally_rows(wire.outcomes_from_proto(batch))]
    assert len(rows) == 1200


def read_batches_all(jobs, job_id: str) -> list[outcome_pb2.OutcomeBatch]:
    async def read(store, log):
        positions, entries = start(1), []
        while page := await log.read(job_id, positions):
            entries += page
            positions = page[-1].positions
        return entries

    return [outcome_pb2.OutcomeBatch.FromString(entry.payload) for entry in jobs.call(read)]
