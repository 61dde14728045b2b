"""A real worker whose science is a script, so that tests can kill it at a chosen moment.

Started as a process: `python scripted_worker.py REDIS_URL STORE [NAME=VALUE …]`, settings by the names of WorkSettings.
The seed of a job chooses what happens to it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import get_type_hints

from attack_service.adapters.environment import prepare_environment

prepare_environment()

from attack_service.adapters.worker import work  # noqa: E402 -- Celery reads the environment when it is imported
from attack_service.errors import DatasetUnavailable  # noqa: E402
from attack_service.jobs import AttackJob, Ledger, ModelRecord, Phase, Progress, State  # noqa: E402
from attack_service.outcomes import InFlight, Outcome, Verdict  # noqa: E402
from attack_service.settings import WorkSettings  # noqa: E402

POISON, DEFECT, USER_MISTAKE, DEAF = 1001, 1002, 1003, 1004
STEP_SECONDS = 0.03


def outcome(sample_index: int) -> Outcome:
    return Outcome(sample_index, Verdict.FAILED, 1, 1, 2, 3, 4, 2, 3, 0.25, 0.5, 1.0, 0.125, 9, 3, 0.1)


def run(job: AttackJob, ledger: Ledger, *, store_root: Path, data_root: Path, device: str) -> State:
    """Finish a sample every few milliseconds, in an order that is not that of their indices."""
    if job.spec.seed == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.spec.seed == DEFECT:
        raise ZeroDivisionError("a defect with a secret in its text")
    if job.spec.seed == USER_MISTAKE:
        raise DatasetUnavailable("the dataset is not there; give --data-root")
    if job.spec.seed == DEAF:
        time.sleep(600)
    if "torch" in sys.modules:
        raise AssertionError("the parent loaded torch")
    ledger.model_ready(ModelRecord("weights", 1.0, 10, 1, 0.9, 10, 1000, 10, "cpu"), "dataset")
    done = ledger.recorded_verdicts()
    todo = [index for index in reversed(range(job.spec.sample_count)) if index not in done]
    while todo:
        if ledger.cancel_requested():
            ledger.record([outcome(todo[0])], [], 0.1)
            return State.CANCELED
        time.sleep(STEP_SECONDS)
        ledger.record([outcome(todo.pop(0))], [InFlight(index, 1, 2, 1, 0.1) for index in todo[:2]], 0.1)
        total = job.spec.sample_count
        ledger.progress(Progress(Phase.ATTACKING, total - len(todo), total))
    return State.SUCCEEDED


if __name__ == "__main__":
    types = get_type_hints(WorkSettings)
    options = dict(argument.split("=", 1) for argument in sys.argv[3:])
    settings = WorkSettings(
        redis_url=sys.argv[1], store=sys.argv[2], **{name: types[name](value) for name, value in options.items()}
    )
    work(settings, os.environ, lambda: print("ready", flush=True), run)
