"""The shards of a job: who may begin when, and what a job becomes of what its shards become."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from attack_service.adapters.job_store import CANCELED_WITHOUT_WORKER, with_worker_warnings
from attack_service.adapters.keys import JobKeys
from attack_service.adapters.ledger import RedisLedger, Refusal
from attack_service.adapters.owners import Neighbours
from attack_service.errors import AttemptFenced, RequestConflict
from attack_service.jobs import ModelRecord, Phase, Preparation, Progress, State

PREPARATION = Preparation(ModelRecord("weights", 1.5, 9, 1, 0.9, 9, 9, 10, "cpu"), "dataset", (1, -1, 2))


@pytest.fixture
def job_id(jobs, spec) -> str:
    """A job of three shards."""
    return jobs.create(replace(spec, shard_count=3))


@pytest.fixture
def lose(client):
    """`lose(job_id, 1)`: the worker of shard 1 is dead and its lease has run out."""
    return lambda job_id, shard_index=0: client.delete(JobKeys(job_id).shard(shard_index).lease)


def prepared(jobs, job_id: str) -> list[RedisLedger]:
    """Attempts at all three shards."""
    first = jobs.begin(job_id)
    first.model_ready(PREPARATION)
    return [first, *(jobs.begin(job_id, shard_index=index) for index in (1, 2))]


def state(jobs, job_id: str) -> State:
    return jobs.get(job_id).job.state


def test_a_job_left_open_gets_a_shard_a_worker_and_a_batch_each(jobs, spec, new_request_id) -> None:
    asked = replace(spec, sample_count=100, batch_size=20)

    def create(worker_count: int, **fields: object):
        return jobs.call(
            lambda store, log: store.create(replace(asked, **fields), new_request_id, worker_count=worker_count)
        )[0]

    first = create(4)
    assert first.job.spec.shard_count == len(first.shards) == 4
    # The same request, when there are other workers.
    assert create(2).job == first.job
    with pytest.raises(RequestConflict):
        create(4, shard_count=3)


def test_only_the_first_shard_begins_before_the_model_is_ready(jobs, job_id) -> None:
    called = []
    first = jobs.begin(job_id, prepared=called.append)
    assert first.preparation() is None
    assert jobs.begin(job_id, shard_index=1) is Refusal.UNPREPARED
    assert jobs.get(job_id).waiting_shards == []
    first.model_ready(PREPARATION)
    assert called == [3]
    assert jobs.get(job_id).waiting_shards == [1, 2]
    second = jobs.begin(job_id, shard_index=1)
    assert second.preparation() == PREPARATION
    assert jobs.get(job_id).waiting_shards == [2]


def test_there_is_no_shard_beyond_the_last(jobs, job_id) -> None:
    assert jobs.begin(job_id, shard_index=3) is Refusal.ENDED


def test_an_attempt_after_the_model_is_ready_need_not_prepare(jobs, job_id, lose) -> None:
    jobs.begin(job_id).model_ready(PREPARATION)
    lose(job_id)
    assert jobs.begin(job_id).preparation() == PREPARATION


def test_a_job_succeeds_with_its_last_shard(jobs, job_id, make_outcome) -> None:
    ledgers = prepared(jobs, job_id)
    for index, ledger in enumerate(ledgers):
        ledger.record([make_outcome(index)], [], 0.5)
    for ledger in ledgers:
        assert state(jobs, job_id) is State.RUNNING
        ledger.finish(State.SUCCEEDED)
    stored = jobs.get(job_id)
    assert (stored.job.state, stored.tally.outcome_count, stored.job.attempt_count) == (State.SUCCEEDED, 3, 1)
    assert stored.job.end_time is not None


def test_a_finished_shard_is_not_begun_again(jobs, job_id) -> None:
    first, *_ = prepared(jobs, job_id)
    first.finish(State.SUCCEEDED)
    assert jobs.begin(job_id) is Refusal.ENDED
    assert state(jobs, job_id) is State.RUNNING


def test_a_shard_that_fails_ends_the_job_and_stops_the_others(jobs, job_id, make_outcome) -> None:
    first, second, third = prepared(jobs, job_id)
    second.finish(State.FAILED, "the dataset is not there")
    job = jobs.get(job_id).job
    assert (job.state, job.failure_message) == (State.FAILED, "the dataset is not there")
    for write in (
        lambda: first.record([make_outcome(1)], [], 0.5),
        lambda: third.progress(Progress(Phase.ATTACKING, 1, 1)),
    ):
        with pytest.raises(AttemptFenced, match="has ended without this shard"):
            write()
    first.finish(State.SUCCEEDED)
    third.release()
    assert state(jobs, job_id) is State.FAILED


def test_a_cancel_is_over_when_the_last_shard_has_left(jobs, job_id) -> None:
    first, second, third = prepared(jobs, job_id)
    third.release()
    jobs.call(lambda store, log: store.cancel(job_id))
    assert first.cancel_requested()
    assert second.cancel_requested()
    first.finish(State.CANCELED)
    assert state(jobs, job_id) is State.RUNNING
    assert jobs.begin(job_id, shard_index=2) is Refusal.ENDED
    assert state(jobs, job_id) is State.RUNNING
    second.finish(State.SUCCEEDED)
    job = jobs.get(job_id).job
    assert (job.state, job.warnings) == (State.CANCELED, ())


def test_a_cancel_says_that_a_shard_was_lost_whoever_ends_it(jobs, job_id, lose) -> None:
    first, second, _ = prepared(jobs, job_id)
    jobs.call(lambda store, log: store.cancel(job_id))
    lose(job_id, 2)
    second.finish(State.CANCELED)
    assert state(jobs, job_id) is State.RUNNING
    first.finish(State.CANCELED)
    job = jobs.get(job_id).job
    assert (job.state, job.warnings) == (State.CANCELED, (CANCELED_WITHOUT_WORKER,))


def test_a_job_whose_shards_wait_is_canceled_at_once_and_no_worker_was_lost(jobs, job_id) -> None:
    first = jobs.begin(job_id)
    first.model_ready(PREPARATION)
    first.finish(State.SUCCEEDED)
    job = jobs.call(lambda store, log: store.cancel(job_id)).job
    assert (job.state, job.warnings) == (State.CANCELED, ())


def test_a_job_is_queued_again_when_nobody_is_left_at_work(jobs, job_id) -> None:
    first, second, third = prepared(jobs, job_id)
    third.finish(State.SUCCEEDED)
    first.release()
    assert state(jobs, job_id) is State.RUNNING
    second.release()
    assert state(jobs, job_id) is State.QUEUED
    assert jobs.get(job_id).waiting_shards == [0, 1]
    jobs.begin(job_id, shard_index=1)
    assert state(jobs, job_id) is State.RUNNING
    assert jobs.get(job_id).job.attempt_count == 2


def test_a_shard_that_loses_every_worker_fails_the_job(jobs, job_id, lose) -> None:
    first, *_ = prepared(jobs, job_id)
    lose(job_id, 1)
    assert jobs.begin(job_id, shard_index=1, attempt_limit=2).attempt == 2
    lose(job_id, 1)
    assert jobs.begin(job_id, shard_index=1, attempt_limit=2) is Refusal.ENDED
    job = jobs.get(job_id).job
    assert job.state is State.FAILED
    assert job.failure_message.startswith("2 workers in a row were lost")
    with pytest.raises(AttemptFenced):
        first.warn("still here")


def test_a_lost_shard_is_told_while_others_go_on_and_waiting_is_no_loss(jobs, job_id, lose) -> None:
    first, second, _ = prepared(jobs, job_id)
    assert with_worker_warnings(jobs.get(job_id), 1).warnings == ()
    lose(job_id, 2)
    assert "was lost" in with_worker_warnings(jobs.get(job_id), 1).warnings[0]
    jobs.begin(job_id, shard_index=2).finish(State.SUCCEEDED)
    second.release()
    first.finish(State.SUCCEEDED)
    assert with_worker_warnings(jobs.get(job_id), 1).warnings == ()


def test_a_preparation_that_a_crashed_redis_forgot_is_given_again(jobs, job_id, client, make_outcome) -> None:
    first = jobs.begin(job_id)
    first.model_ready(PREPARATION)
    first.record([make_outcome(0)], [], 0.5)
    client.hdel(JobKeys(job_id).record, "model_record", "dataset_digest", "clean_predictions")
    assert jobs.begin(job_id, shard_index=1) is Refusal.UNPREPARED
    first.finish(State.SUCCEEDED)
    assert jobs.begin(job_id, shard_index=1).preparation() == PREPARATION
    assert jobs.get(job_id).job.model_record == PREPARATION.record


def test_warnings_of_shards_merge_and_so_do_violations(jobs, job_id) -> None:
    first, second, _ = prepared(jobs, job_id)
    for ledger in (first, second):
        ledger.warn("barely better than chance")
        ledger.timing_violation("2 runs shared the cpu")
    second.timing_violation("another device")
    job = jobs.get(job_id).job
    assert job.warnings == ("barely better than chance",)
    assert job.timing_violations == ("2 runs shared the cpu", "another device")


def test_the_progress_of_a_job_is_that_of_its_shards(jobs, job_id, make_outcome) -> None:
    first, second, _ = prepared(jobs, job_id)
    first.progress(Progress(Phase.EVALUATING, 360, 360))
    assert jobs.get(job_id).job.progress == Progress(Phase.EVALUATING, 360, 360)
    first.record([make_outcome(0), make_outcome(3)], [], 0.5)
    second.record([make_outcome(1)], [], 0.5)
    first.progress(Progress(Phase.ATTACKING, 3, 3, 2.0))
    second.progress(Progress(Phase.LOADING))
    progress = jobs.get(job_id).job.progress
    assert (progress.phase, progress.done_count, progress.total_count) == (Phase.ATTACKING, 3, 8)
    assert progress.failed_count == 3


def test_neighbours_on_a_device_are_seen_and_the_dead_are_not(client) -> None:
    ours, device = Neighbours(), "test-device"
    ours.meet(client, device)
    assert ours.most == 0
    (key,) = client.keys(f"afr:computing:*:{device}")
    host = key.decode().split(":")[2]
    score = client.zscore(key, client.zrange(key, 0, 0)[0])
    # One lives, one is dead, one fell silent.
    client.zadd(key, {f"{host}:1": score, f"{host}:{2**22 + 1}": score, "elsewhere:7": score - 60})
    ours.look_around(client)
    assert ours.most == 1
    ours.part(client)
    assert [owner.decode() for owner in client.zrange(key, 0, -1)] == [f"{host}:1", f"{host}:{2**22 + 1}"]
    ours.look_around(client)
    assert client.zcard(key) == 2
    client.delete(key)


class JobOfShards(RuleBasedStateMachine):
    """A job of three shards under anything that can happen to it, beside a model of what it must then be."""

    attempts: Bundle[RedisLedger] = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.ready = self.canceled = False
        self.stages = ["waiting"] * 3
        self.final: State | None = None
        self.recorded = 0
        self.newest: dict[int, RedisLedger] = {}
        self.job_id = ""

    @initialize(target=attempts, ready=st.booleans())
    def create(self, ready: bool):
        self.job_id = self.jobs.create(self.spec)
        self.newest[0] = self.jobs.begin(self.job_id)
        self.stages[0] = "held"
        if ready:
            self.newest[0].model_ready(PREPARATION)
            self.ready = True
        return self.newest[0]

    @property
    def held(self) -> bool:
        return "held" in self.stages

    @rule(target=attempts, shard_index=st.integers(0, 2))
    def begin(self, shard_index: int):
        answer = self.jobs.begin(self.job_id, shard_index=shard_index, attempt_limit=1000)
        if self.final or self.stages[shard_index] == "done":
            assert answer is Refusal.ENDED
        elif self.canceled:
            # The shard is nobody's now, though its lease was this process's own.
            self.stages[shard_index] = "lost" if self.stages[shard_index] == "held" else self.stages[shard_index]
            if not self.held:
                self.final = State.CANCELED
            assert answer is Refusal.ENDED
        elif shard_index and not self.ready:
            assert answer is Refusal.UNPREPARED
        else:
            assert isinstance(answer, RedisLedger)
            assert (answer.preparation() is not None) == self.ready
            self.stages[shard_index] = "held"
            self.newest[shard_index] = answer
            return answer
        return multiple()

    def may_write(self, attempt: RedisLedger) -> bool:
        newest = self.newest[attempt.shard_index] is attempt
        return newest and self.stages[attempt.shard_index] in ("held", "lost") and self.final is None

    @rule(attempt=attempts)
    def prepare(self, attempt: RedisLedger) -> None:
        if self.may_write(attempt) and not self.ready:
            attempt.model_ready(PREPARATION)
            self.ready = True

    @rule(attempt=attempts)
    def record(self, attempt: RedisLedger) -> None:
        if self.may_write(attempt):
            attempt.record([self.make_outcome(self.recorded)], [], 0.5)
            self.recorded += 1
        elif self.final or self.newest[attempt.shard_index] is not attempt:
            with pytest.raises(AttemptFenced):
                attempt.record([self.make_outcome(10**6)], [], 0.5)

    @rule(attempt=consumes(attempts), how=st.sampled_from([State.SUCCEEDED, State.SUCCEEDED, State.FAILED, None]))
    def leave(self, attempt: RedisLedger, how: State | None) -> None:
        if not self.may_write(attempt):
            return
        if how is State.SUCCEEDED and not self.ready:
            how = None
        if how is None and self.canceled:
            how = State.CANCELED
        if how is None:
            attempt.release()
        else:
            attempt.finish(how)
        self.stages[attempt.shard_index] = "done" if how is State.SUCCEEDED else "left"
        if how is State.FAILED:
            self.final = State.FAILED
        elif set(self.stages) == {"done"}:
            self.final = State.SUCCEEDED
        elif self.canceled and not self.held:
            self.final = State.CANCELED

    @rule(shard_index=st.integers(0, 2))
    def lose(self, shard_index: int) -> None:
        self.client.delete(JobKeys(self.job_id).shard(shard_index).lease)
        if self.stages[shard_index] == "held":
            self.stages[shard_index] = "lost"

    @precondition(lambda self: self.final is None and self.recorded > 1)
    @rule()
    def cancel(self) -> None:
        self.jobs.call(lambda store, log: store.cancel(self.job_id))
        if self.held:
            self.canceled = True
        else:
            self.final = State.CANCELED

    @invariant()
    def the_job_is_what_its_shards_make_it(self) -> None:
        if not self.job_id:
            return
        stored = self.jobs.get(self.job_id)
        if self.final:
            assert stored.job.state is self.final
            assert stored.waiting_shards == []
            return
        assert not stored.job.state.ended
        if self.held:
            assert stored.job.state is State.RUNNING
        assert [shard.done for shard in stored.shards] == [stage == "done" for stage in self.stages]
        assert [shard.held for shard in stored.shards] == [stage == "held" for stage in self.stages]
        assert stored.tally.outcome_count == self.recorded
        # Whoever is neither done nor at work is somebody's to begin, or waits for the first.
        waiting = [index for index, stage in enumerate(self.stages) if stage not in ("done", "held")]
        assert stored.waiting_shards == (waiting if self.ready else [index for index in waiting if index == 0])


def test_a_job_becomes_what_its_shards_become(jobs, client, spec, make_outcome) -> None:
    JobOfShards.jobs, JobOfShards.client, JobOfShards.make_outcome = jobs, client, staticmethod(make_outcome)
    JobOfShards.spec = replace(spec, shard_count=3)
    checks = settings(
        max_examples=30,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(JobOfShards, settings=checks)
