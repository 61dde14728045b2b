"""Attack jobs in Redis: creation, pages, cancelling, deleting, and what is said of missing workers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attack_service.adapters.connecting import check_server, connect, connect_asyncio, shown
from attack_service.adapters.job_store import CANCELED_WITHOUT_WORKER, JobStore, with_worker_warnings
from attack_service.adapters.keys import WORKERS, JobKeys, worker_key
from attack_service.adapters.ledger import Refusal
from attack_service.adapters.outcome_log import start
from attack_service.adapters.servicer import AttackServicer
from attack_service.errors import (
    InvalidSpecification,
    JobNotEnded,
    JobNotFound,
    OutcomesLost,
    RequestConflict,
    StoreFull,
    StoreUnavailable,
)
from attack_service.jobs import State


def test_a_job_is_queued_with_what_it_shall_do(jobs, spec) -> None:
    stored = jobs.get(jobs.create(spec))
    assert stored.job.spec == replace(spec, shard_count=1)
    assert stored.job.state is State.QUEUED
    assert (stored.held, stored.tally.outcome_count) == (False, 0)


def test_a_request_repeated_is_the_same_job(jobs, spec, new_request_id) -> None:
    first = jobs.create(spec, new_request_id)
    assert jobs.create(spec, new_request_id) == first
    assert jobs.create(spec) != first


def test_a_request_id_used_for_something_else_is_a_conflict(jobs, spec, new_request_id) -> None:
    jobs.create(spec, new_request_id)
    with pytest.raises(RequestConflict, match="use a new one"):
        jobs.create(replace(spec, seed=7), new_request_id)


def test_jobs_are_listed_newest_first_page_by_page(jobs, spec) -> None:
    created = [jobs.create(spec) for _ in range(5)]

    async def pages(store, log):
        found, token = [], ""
        while len(found) < 5:
            page, token = await store.page(2, token)
            assert len(page) == 2
            found += [stored.job.attack_job_id for stored in page]
            # A job created meanwhile shifts no page.
            await store.create(spec)
        return found

    assert jobs.call(pages)[:5] == created[::-1]


def test_the_last_page_has_no_token(module_redis_url, spec, jobs) -> None:
    async def pages(store, log):
        async with connect_asyncio(module_redis_url, 1) as client:
            empty = JobStore(client)
            assert await empty.page(10, "") == ([], "")
            await empty.create(spec)
            page, token = await empty.page(1, "")
            return len(page), token

    assert jobs.call(pages) == (1, "")


@pytest.mark.parametrize("token", ["x", "-1", "1.5", "٣", "1" * 20])
def test_a_page_token_that_was_never_issued_is_refused(jobs, token) -> None:
    with pytest.raises(InvalidSpecification) as caught:
        jobs.call(lambda store, log: store.page(2, token))
    assert caught.value.field == "page_token"


def test_a_queued_job_is_canceled_at_once(jobs, spec) -> None:
    job_id = jobs.create(spec)
    stored = jobs.call(lambda store, log: store.cancel(job_id))
    assert stored.job.state is State.CANCELED
    assert stored.job.end_time is not None


def test_a_running_job_is_canceled_by_its_worker(jobs, spec) -> None:
    job_id = jobs.create(spec)
    ledger = jobs.begin(job_id)
    assert jobs.call(lambda store, log: store.cancel(job_id)).job.state is State.RUNNING
    assert ledger.cancel_requested()
    ledger.finish(State.CANCELED)
    assert jobs.get(job_id).job.state is State.CANCELED


def test_a_running_job_whose_worker_is_dead_is_canceled_at_once(jobs, spec, client, make_outcome) -> None:
    job_id = jobs.create(spec)
    ledger = jobs.begin(job_id)
    ledger.record([make_outcome(3)], [], 0.5)
    client.delete(JobKeys(job_id).shard(0).lease)
    stored = jobs.call(lambda store, log: store.cancel(job_id))
    assert stored.job.state is State.CANCELED
    assert stored.job.warnings == (CANCELED_WITHOUT_WORKER,)
    assert stored.tally.outcome_count == 1


def test_a_cancel_that_its_worker_did_not_live_to_obey_is_obeyed_by_the_next(jobs, spec, client) -> None:
    job_id = jobs.create(spec)
    jobs.begin(job_id)
    jobs.call(lambda store, log: store.cancel(job_id))
    client.delete(JobKeys(job_id).shard(0).lease)
    assert jobs.begin(job_id) is Refusal.ENDED
    stored = jobs.get(job_id)
    assert (stored.job.state, stored.job.warnings) == (State.CANCELED, (CANCELED_WITHOUT_WORKER,))


def test_a_job_canceled_while_its_worker_stops_ends(jobs, spec) -> None:
    job_id = jobs.create(spec)
    ledger = jobs.begin(job_id)
    jobs.call(lambda store, log: store.cancel(job_id))
    ledger.release()
    assert jobs.get(job_id).job.state is State.CANCELED


def test_canceling_an_ended_job_changes_nothing(jobs, spec) -> None:
    job_id = jobs.create(spec)
    jobs.begin(job_id).finish(State.SUCCEEDED)
    before = jobs.get(job_id)
    assert jobs.call(lambda store, log: store.cancel(job_id)) == before


def test_only_an_ended_job_is_deleted_and_nothing_of_it_stays(jobs, spec, client, new_request_id, make_outcome) -> None:
    job_id = jobs.create(spec, new_request_id)
    with pytest.raises(JobNotEnded, match="cancel it"):
        jobs.call(lambda store, log: store.delete(job_id))
    ledger = jobs.begin(job_id)
    ledger.warn("a warning")
    ledger.record([make_outcome(3)], [], 0.5)
    with pytest.raises(JobNotEnded):
        jobs.call(lambda store, log: store.delete(job_id))
    ledger.finish(State.SUCCEEDED)
    jobs.call(lambda store, log: store.delete(job_id))
    assert client.keys(f"*{job_id}*") == []
    assert client.keys(f"*{new_request_id}*") == []
    assert client.zscore("afr:jobs", job_id) is None
    with pytest.raises(JobNotFound):
        jobs.get(job_id)


def test_outcomes_deleted_under_their_reader_are_not_called_lost(jobs, spec, make_outcome) -> None:
    job_id = jobs.create(spec)
    ledger = jobs.begin(job_id)
    ledger.record([make_outcome(3)], [], 0.5)
    ledger.finish(State.SUCCEEDED)

    async def read_too_late(store, log):
        servicer = AttackServicer(store, log, None, 1.0)
        stored = await store.get(job_id)
        with pytest.raises(OutcomesLost):
            await servicer._check_complete(stored, start(1))
        await store.delete(job_id)
        with pytest.raises(JobNotFound):
            await servicer._check_complete(stored, start(1))

    jobs.call(read_too_late)


@pytest.mark.parametrize("call", ["get", "cancel", "delete"])
def test_a_job_that_is_not_there_is_not_found(jobs, call) -> None:
    with pytest.raises(JobNotFound, match="'nowhere'"):
        jobs.call(lambda store, log: getattr(store, call)("nowhere"))


def test_a_job_that_waits_for_a_worker_says_so(jobs, spec, client) -> None:
    job_id = jobs.create(spec)
    queued = jobs.get(job_id)
    assert with_worker_warnings(queued, 1).warnings == ()
    assert with_worker_warnings(queued, 0).warnings == (
        "no worker is running; start one with python -m attack_service work",
    )
    jobs.begin(job_id)
    assert with_worker_warnings(jobs.get(job_id), 0).warnings == ()
    client.delete(JobKeys(job_id).shard(0).lease)
    assert "was lost" in with_worker_warnings(jobs.get(job_id), 1).warnings[0]


def test_workers_that_fell_silent_are_not_counted(jobs, client) -> None:
    before = jobs.call(lambda store, log: store.live_worker_count())
    client.sadd(WORKERS, "living:1", "dead:2")
    client.set(worker_key("living:1"), "{}", ex=5)
    assert jobs.call(lambda store, log: store.live_worker_count()) == before + 1
    client.delete(worker_key("living:1"))
    assert jobs.call(lambda store, log: store.live_worker_count()) == before
    assert not client.sismember(WORKERS, "dead:2")


def test_a_redis_that_is_away_is_one_sentence(free_port, jobs) -> None:
    url = f"redis://user:secret@127.0.0.1:{free_port()}/0"
    with pytest.raises(StoreUnavailable, match=r"no Redis server at redis://127\.0\.0\.1") as caught:
        check_server(url)
    assert "secret" not in str(caught.value)

    async def get(store, log):
        async with connect_asyncio(url, 0.1) as client:
            await JobStore(client).get("x")

    with pytest.raises(StoreUnavailable, match="does not answer"):
        jobs.call(get)


def test_a_password_that_is_wrong_or_missing_is_one_sentence(redis_server) -> None:
    with connect(redis_server.url, 2) as client:
        client.config_set("requirepass", "secret")
        for url in (redis_server.url, redis_server.url.replace("//", "//:wrong@")):
            with pytest.raises(StoreUnavailable, match=r"wants another user or password; give --redis-url") as caught:
                check_server(url)
            assert "wrong" not in str(caught.value)
        check_server(redis_server.url.replace("//", "//:secret@"))


def test_a_full_redis_takes_no_job_and_no_outcome_but_a_failure_and_a_deletion(
    redis_server, make_jobs, spec, make_outcome
) -> None:
    with connect(redis_server.url, 2) as client:
        jobs = make_jobs(redis_server.url, client)
        job_id = jobs.create(spec)
        ledger = jobs.begin(job_id)
        client.config_set("maxmemory", 1)
        for write in (lambda: jobs.create(spec), lambda: ledger.record([make_outcome(3)], [], 0.5)):
            with pytest.raises(StoreFull, match="delete jobs, or raise its maxmemory"):
                write()
        ledger.finish(State.FAILED, "Redis is full")
        assert jobs.get(job_id).job.failure_message == "Redis is full"
        jobs.call(lambda store, log: store.delete(job_id))


def test_a_redis_that_may_not_be_written_to_is_one_sentence(redis_server, make_jobs, spec) -> None:
    with connect(redis_server.url, 2) as client:
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(StoreUnavailable, match="refuses to serve"):
            make_jobs(redis_server.url, client).create(spec)


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:1", "redis://127.0.0.1:port/0", "unix:///redis.sock"])
def test_a_bad_redis_url_is_one_sentence(url) -> None:
    with pytest.raises(StoreUnavailable, match="URL"):
        check_server(url)


def test_a_url_is_shown_without_its_password() -> None:
    assert shown("rediss://user:secret@host:6380/2?x=1") == "rediss://host:6380/2"
