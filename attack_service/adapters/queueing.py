"""The queue between server and workers: Celery on Redis, carrying ids and nothing else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any

import redis
import redis.asyncio
from celery import Celery
from kombu.exceptions import KombuError, OperationalError

from attack_service.adapters.connecting import outages_as_domain_errors
from attack_service.errors import StoreUnavailable

QUEUE = "afr-attack"
"""The Redis list of shards that no worker has taken yet."""

UNACKED = "afr:queue:unacked"
"""Hash of the shards that workers have taken, by delivery tag."""

UNACKED_INDEX = "afr:queue:unacked-index"
"""Sorted set: delivery tag by the time of the last sign of life of whoever has taken it."""

TASK = "attack_service.run_shard"

# The name of a shard, `JOB#SHARD`, in a message.
_SHARD = re.compile(rb"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})#(\d+)")


def build_app(redis_url: str, visibility_seconds: float = 30.0) -> Celery:
    """The Celery application. Connects to nothing, and is not anybody's current one."""
    app = Celery("attack_service", broker=redis_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        # A shard is acknowledged when it is done, and goes back when its process dies; a worker takes one at a time.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        # Outcomes are in the outcome log, states in the job store.
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_proc_alive_timeout=60.0,
        # A connection lost is no reason to stop a job: it rides out the outage, and is fenced if it was replaced.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            # What is not acknowledged for this long is delivered again; `worker.SignsOfLife` keeps pushing that away.
            "visibility_timeout": visibility_seconds,
            "unacked_key": UNACKED,
            "unacked_index_key": UNACKED_INDEX,
            "unacked_mutex_key": "afr:queue:unacked-mutex",
            # A worker killed while it holds this would stop all redelivery for as long.
            "unacked_mutex_expire": 10,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "socket_keepalive": True,
        },
    )
    return app


class JobQueue:
    """The server's side of the queue."""

    def __init__(self, app: Celery, client: redis.asyncio.Redis) -> None:
        self._app = app
        self._client = client

    async def publish(self, job_id: str, shard_indices: Iterable[int]) -> None:
        """Queue shards of a job. Raises `StoreUnavailable`."""
        await asyncio.to_thread(publish, self._app, job_id, shard_indices)

    async def shards(self) -> set[tuple[str, int]]:
        """The shards, by job and index, of which a task waits in the queue or is with a worker."""
        with outages_as_domain_errors():
            waiting: Any = await self._client.lrange(QUEUE, 0, -1)
            taken: Any = await self._client.hvals(UNACKED)
        # The format of a message is not ours, but `publish` has put the shard's name in its headers, readably.
        found = (match for message in (*waiting, *taken) for match in _SHARD.findall(message))
        return {(job_id.decode(), int(shard_index)) for job_id, shard_index in found}


def publish(app: Celery, job_id: str, shard_indices: Iterable[int]) -> None:
    """Queue shards of a job. Raises `StoreUnavailable`."""
    policy = {"max_retries": 3, "interval_start": 0.05, "interval_step": 0.2, "interval_max": 0.5}
    try:
        for shard_index in shard_indices:
            name = f"{job_id}#{shard_index}"
            app.send_task(TASK, args=[job_id, shard_index], argsrepr=name, queue=QUEUE, retry=True, retry_policy=policy)
    except (OperationalError, KombuError, redis.RedisError, OSError) as error:
        raise StoreUnavailable(f"the job could not be queued ({error}); it will be once Redis is back") from error
