"""The worker: takes shards from the queue and runs them, one at a time, in a process of their own.

The parent talks to the queue and never loads torch (CUDA does not survive a fork); its only child does the work, dies
with it, and is replaced when it dies alone.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import signal
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import redis
from celery import Celery, bootsteps, signals
from celery.exceptions import CPendingDeprecationWarning, Reject
from celery.platforms import SecurityWarning

from attack_service.adapters.connecting import check_server, connect
from attack_service.adapters.keys import WORKERS, worker_key
from attack_service.adapters.ledger import RedisLedger, Refusal, WorkerStopping
from attack_service.adapters.model_index import ModelIndex
from attack_service.adapters.owners import LEASE_SECONDS, owner_name
from attack_service.adapters.queueing import QUEUE, TASK, UNACKED_INDEX, build_app, publish
from attack_service.errors import AttackServiceError, AttemptFenced, StoreFull, StoreUnavailable
from attack_service.jobs import AttackJob, Ledger, State
from attack_service.settings import WorkSettings

HEARTBEAT_SECONDS = 3.0
_HEARTBEAT_EXPIRY_SECONDS = 12
_FAREWELL_SECONDS = 4.0
_PAUSE_SECONDS = 1.0
# The page of memory that parent and child share: told to stop, at a shard, the child's process id.
_FLAGS = struct.Struct("=??xxxxxxq")
_STOPPING, _BUSY = 0, 1

_log = logging.getLogger(__name__)

Publish = Callable[[int], None]
"""Queues all shards of a job but the first, given how many it has."""


class RunAttack(Protocol):
    """The science: `attack_service.running.run_attack`."""

    def __call__(
        self, job: AttackJob, ledger: Ledger, *, shard_index: int, store_root: Path, data_root: Path, device: str
    ) -> State: ...


def run_attack_lazily(
    job: AttackJob, ledger: Ledger, *, shard_index: int, store_root: Path, data_root: Path, device: str
) -> State:
    """Load torch in the process that needs it, when it needs it."""
    from attack_service.running import run_attack

    return run_attack(job, ledger, shard_index=shard_index, store_root=store_root, data_root=data_root, device=device)


class SignsOfLife(threading.Thread):
    """Renews, while a shard runs, its lease and its invisibility in the queue.

    The queue hands a task on when it hears nothing for `visibility_seconds`, though it may run for hours.
    """

    def __init__(self, settings: WorkSettings, ledger: RedisLedger, delivery_tag: str) -> None:
        super().__init__(name="signs-of-life", daemon=True)
        self._settings = settings
        self._ledger = ledger
        self._delivery_tag = delivery_tag
        self._ended = threading.Event()

    def run(self) -> None:
        period = min(self._settings.visibility_seconds, LEASE_SECONDS) / 3
        with closing(connect(self._settings.redis_url, period)) as client:
            while True:
                try:
                    # Only if it is there: a task that was acknowledged must not come back.
                    client.zadd(UNACKED_INDEX, {self._delivery_tag: time.time()}, xx=True)
                    self._ledger.renew(client)
                except redis.RedisError as error:
                    _log.warning("no sign of life could be given: %s", error)
                if self._ended.wait(period):
                    return

    def __enter__(self) -> SignsOfLife:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join(timeout=2)


class Worker:
    """What the parent and the child of one worker share."""

    def __init__(self, settings: WorkSettings, environ: Mapping[str, str], run: RunAttack) -> None:
        self.settings = settings
        self._store_root = settings.store_root(environ)
        self._data_root = settings.resolved_data_root(environ)
        self._run = run
        # Named after the parent, which tells the server that both live.
        self.models = ModelIndex(self._store_root, owner_name())
        # Plain bytes, because a signal handler reads and writes them at any moment.
        self._flags = mmap.mmap(-1, _FLAGS.size)

    @property
    def stopping(self) -> bool:
        """Whether the worker was told to stop; the child's shard then goes back to the queue."""
        return self._flags[_STOPPING] == 1

    def child_begins(self) -> None:
        """In a new child, which is at no shard, whatever its predecessor died of."""
        _FLAGS.pack_into(self._flags, 0, self.stopping, False, os.getpid())

    def run_shard(self, job_id: str, shard_index: int, delivery_tag: str, publish: Publish) -> bool:
        """Run a shard to its end. False if it must go back to the queue. `publish` queues the job's other shards."""
        self._flags[_BUSY] = 1
        try:
            with closing(connect(self.settings.redis_url, self.settings.redis_patience_seconds)) as client:
                ledger = self._begin(client, job_id, shard_index, publish)
                if isinstance(ledger, Refusal):
                    _log.info("shard %d of job %s: left alone, %s", shard_index, job_id, ledger.value)
                    return True
                with SignsOfLife(self.settings, ledger, delivery_tag):
                    self._attempt(ledger, client)
            return True
        except WorkerStopping:
            return False
        except AttemptFenced as error:
            _log.warning("shard %d of job %s: %s", shard_index, job_id, error)
            return True
        except (StoreUnavailable, StoreFull) as error:
            _log.error("shard %d of job %s: %s", shard_index, job_id, error)
            self._wait_for_redis()
            return False
        finally:
            self._flags[_BUSY] = 0

    def _wait_for_redis(self) -> None:
        """Return once Redis answers: until then the parent cannot put a shard back, and would take no other one."""
        with closing(connect(self.settings.redis_url, _PAUSE_SECONDS)) as client:
            while not self.stopping:
                # At first too: a Redis that is there may refuse the same job again and again.
                time.sleep(_PAUSE_SECONDS)
                with suppress(redis.RedisError):
                    client.ping()
                    return

    def stop(self) -> None:
        """Let the child put its shard back, within a while, and end it. For a signal handler of the parent."""
        self._flags[_STOPPING] = 1
        deadline = time.monotonic() + self.settings.shutdown_seconds
        while self._flags[_BUSY] and time.monotonic() < deadline:
            time.sleep(0.02)
        *_, child = _FLAGS.unpack_from(self._flags)
        # Idle now, or deaf; by itself it would look at the parent's end only every few seconds.
        if child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def _begin(self, client: redis.Redis, job_id: str, shard_index: int, publish: Publish) -> RedisLedger | Refusal:
        # Whoever holds the shard may have died a moment ago: then its lease runs out while we wait.
        deadline = time.monotonic() + LEASE_SECONDS + 2
        while True:
            begun = RedisLedger.begin(
                client,
                job_id,
                attempt_limit=self.settings.attempt_limit,
                shard_index=shard_index,
                prepared=publish,
                stopping=lambda: self.stopping,
            )
            if begun is not Refusal.HELD or time.monotonic() > deadline:
                return begun
            if self.stopping:
                raise WorkerStopping
            time.sleep(0.25)

    def _attempt(self, ledger: RedisLedger, client: redis.Redis) -> None:
        what = f"shard {ledger.shard_index} of job {ledger.job.attack_job_id}"
        _log.info("%s: attempt %d", what, ledger.attempt)
        try:
            state = self._run(
                ledger.job,
                ledger,
                shard_index=ledger.shard_index,
                store_root=self._store_root,
                data_root=self._data_root,
                device=self.settings.device,
            )
            with suppress(redis.RedisError):
                # Before the job ends: whoever waits for that may ask for the model. The parent will say it in any case.
                self.models.publish(client, _HEARTBEAT_EXPIRY_SECONDS)
            ledger.finish(state)
            _log.info("%s: %s", what, state.name)
        except WorkerStopping:
            ledger.release()
            _log.info("%s: put back", what)
            raise
        except (AttemptFenced, StoreUnavailable):
            raise
        except AttackServiceError as error:
            _log.warning("%s: %s", what, error)
            ledger.finish(State.FAILED, str(error))
        except Exception as error:
            _log.exception("%s: defect", what)
            message = f"internal error ({type(error).__name__}); the log of the worker {owner_name()} has the details"
            ledger.finish(State.FAILED, message)


def build_worker_app(worker: Worker) -> Celery:
    """The Celery application of a worker, with its one task and its signs of life."""
    app = build_app(worker.settings.redis_url, worker.settings.visibility_seconds)

    @app.task(name=TASK, bind=True)  # type: ignore[untyped-decorator]
    def run_shard(task: Any, job_id: str, shard_index: int) -> None:
        def publish_others(shard_count: int) -> None:
            try:
                publish(app, job_id, range(1, shard_count))
            except StoreUnavailable as error:
                # The server finds shards that wait and are not in the queue.
                _log.warning("job %s: %s", job_id, error)

        if not worker.run_shard(job_id, shard_index, task.request.properties["delivery_tag"], publish_others):
            raise Reject("the worker is stopping", requeue=True)

    class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]
        """Tells the server, from the loop that takes tasks, that this worker lives."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def __init__(self, consumer: Any, **options: Any) -> None:
            super().__init__(consumer, **options)
            self._timer: Any = None
            # Without patience: the loop must not wait for a Redis that is away, the next beat comes soon.
            self._client = redis.Redis.from_url(worker.settings.redis_url, socket_timeout=1, socket_connect_timeout=1)

        def start(self, consumer: Any) -> None:
            self._beat()
            self._timer = consumer.timer.call_repeatedly(HEARTBEAT_SECONDS, self._beat)

        def stop(self, consumer: Any) -> None:
            if self._timer is not None:
                self._timer.cancel()
            try:
                worker.models.withdraw(self._client)
                self._client.delete(worker_key(owner_name()))
                self._client.srem(WORKERS, owner_name())
            except redis.RedisError as error:
                _log.warning("the last heartbeat will expire by itself: %s", error)

        def _beat(self) -> None:
            host, _, pid = owner_name().rpartition(":")
            about = json.dumps({"hostname": host, "pid": int(pid), "device": worker.settings.device})
            try:
                with self._client.pipeline(transaction=True) as pipe:
                    pipe.set(worker_key(owner_name()), about, ex=_HEARTBEAT_EXPIRY_SECONDS)
                    pipe.sadd(WORKERS, owner_name())
                    pipe.execute()
                worker.models.publish(self._client, _HEARTBEAT_EXPIRY_SECONDS)
            except redis.RedisError as error:
                _log.warning("no heartbeat could be given: %s", error)

    app.steps["consumer"].add(Heartbeat)
    return app


def work(
    settings: WorkSettings,
    environ: Mapping[str, str],
    on_ready: Callable[[], None],
    run: RunAttack = run_attack_lazily,
) -> None:
    """Take shards and run them until SIGTERM or SIGINT. Raises `StoreUnavailable` if there is no Redis at the start."""
    check_server(settings.redis_url)
    worker = Worker(settings, environ, run)
    app = build_worker_app(worker)

    def consumer_ready(sender: Any, **_: Any) -> None:
        # From its loop: Celery has a last look at the pool before that begins, and fails if a signal has ended it.
        sender.timer.call_after(0, ready)

    def ready() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            _stop_first(worker, number)
        on_ready()

    def child_begins(**_: Any) -> None:
        worker.child_begins()

    # Celery speaks on this one when it stops; standard output has the one line `ready`.
    sys.__stdout__ = sys.stderr  # type: ignore[misc, assignment]
    for name in ("celery", "kombu"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Redis out of memory is no defect of the queue's timers.
    logging.getLogger("kombu.asynchronous.hub").addFilter(_without_traceback_of_redis)
    # It logs a task that goes back to the queue as if that were an error.
    logging.getLogger("celery.app.trace").setLevel(logging.ERROR)
    # Celery warns of root because of pickled tasks; ours are JSON, and whoever runs the container chooses its user.
    warnings.simplefilter("ignore", SecurityWarning)
    # It repeats, at every lost connection, that the setting which `build_app` has chosen exists.
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    signals.worker_ready.connect(consumer_ready, weak=False)
    signals.worker_process_init.connect(child_begins, weak=False)
    celery_worker = app.Worker(
        pool="prefork",
        concurrency=1,
        queues=[QUEUE],
        hostname=f"afr@{owner_name()}",
        loglevel="INFO",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    celery_worker.start()
    if celery_worker.exitcode and not worker.stopping:
        sys.exit(celery_worker.exitcode)


def _without_traceback_of_redis(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], redis.RedisError):
        record.exc_info = None
    return True


def _stop_first(worker: Worker, number: signal.Signals) -> None:
    """Before Celery shuts down, let the child put its shard back. Both signals then stop it at once."""
    shut_down: Any = signal.getsignal(signal.SIGTERM)

    def handle(received: int, frame: FrameType | None) -> None:
        worker.stop()
        # Celery's farewell needs Redis; without one it would wait for ever. Whatever is not said now, the queue finds
        # out by itself when the task's visibility ends.
        last_resort = threading.Timer(_FAREWELL_SECONDS, os._exit, [0])
        last_resort.daemon = True
        last_resort.start()
        shut_down(received, frame)

    signal.signal(number, handle)
