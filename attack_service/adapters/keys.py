"""The keys of the attack service in Redis, and what each holds."""

from __future__ import annotations

from dataclasses import dataclass

INDEX = "afr:jobs"
"""Sorted set: job id by creation number."""

OPEN = "afr:jobs:open"
"""Set of the jobs that have not ended."""

NUMBER = "afr:jobs:number"
"""String: the creation number of the newest job."""

WORKERS = "afr:workers"
"""Set of worker names; a worker lives while its key `afr:worker:NAME` does."""


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The keys of one shard of a job."""

    meta: str
    """Hash: attempt, stage (begun, left, done), lost, sequence, last_append and the tally of what `outcomes` holds."""
    outcomes: str
    """Stream: the outcome log."""
    progress: str
    """String: what its attempt is doing, a serialised Progress."""
    lease: str
    """String, with an expiry: the worker process that runs the shard now."""


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The keys of one job."""

    job_id: str

    @property
    def record(self) -> str:
        """Hash: the specification, the state, and what the job's first shard has prepared."""
        return f"afr:job:{self.job_id}"

    @property
    def warnings(self) -> str:
        """Sorted set: sentence by the time when it was first said."""
        return f"{self.record}:warnings"

    @property
    def timing_violations(self) -> str:
        """Sorted set, like `warnings`."""
        return f"{self.record}:timing-violations"

    @property
    def changes(self) -> str:
        """Stream of one entry that wakes those who wait for news."""
        return f"{self.record}:changes"

    def shard(self, shard_index: int) -> ShardKeys:
        prefix = f"{self.record}:shard:{shard_index}"
        return ShardKeys(prefix, f"{prefix}:outcomes", f"{prefix}:progress", f"{prefix}:lease")

    def shards(self, shard_count: int) -> list[ShardKeys]:
        return [self.shard(index) for index in range(shard_count)]

    def whole(self, shard_count: int) -> list[str]:
        """What the scripts that look at a whole job take as their keys."""
        pairs = [key for shard in self.shards(shard_count) for key in (shard.meta, shard.lease)]
        return [self.record, OPEN, self.changes, self.warnings, *pairs]


def worker_models_key(name: str) -> str:
    """String, with the expiry of the worker's own key: the models in its store."""
    return f"afr:worker:{name}:models"


def worker_key(name: str) -> str:
    """String, with an expiry: what a living worker says about itself."""
    return f"afr:worker:{name}"


def request_key(request_id: str) -> str:
    """String: the job that was created with this request id."""
    return f"afr:request:{request_id}"


def computing_key(hostname: str, device: str) -> str:
    """Sorted set: the processes that run a shard on a device of a host, by the time of their last sign of life."""
    return f"afr:computing:{hostname}:{device}"
