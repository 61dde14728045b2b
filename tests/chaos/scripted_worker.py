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
from attack_service.jobs import AttackJob, Ledger, ModelRecord, Phase, Preparation, Progress, State  # noqa: E402
from attack_service.outcomes import InFlight, Outcome, Verdict  # noqa: E402
from attack_service.settings import WorkSettings  # noqa: E402

POISON, DEFECT, USER_MISTAKE, DEAF, LAST_SHARD_FAILS, DIES_TRAINING = 1001, 1002, 1003, 1004, 1005, 1006
STEP_SECONDS = 0.03


def outcome(sample_index: int) -> Outcome:
    return Outcome(sample_index, Verdict.FAILED, 1, 1, 2, 3, 4, 2, 3, 0.25, 0.5, 1.0, 0.125, 9, 3, 0.1)


def train(job_id: str, ledger: Ledger, store_root: Path, *, dies: bool) -> None:
    """An epoch that says so in the store; with `dies`, the first time it is the last thing that this process does."""
    trainings = store_root / f"trainings-{job_id}"
    store_root.mkdir(parents=True, exist_ok=True)
    with trainings.open("a") as file:
        file.write("epoch\n")
    if dies and trainings.read_text().count("epoch") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ledger.model_ready(Preparation(ModelRecord("weights", 1.0, 10, 1, 0.9, 10, 1000, 10, "cpu"), "dataset", (1, 2)))


def run(job: AttackJob, ledger: Ledger, *, shard_index: int, store_root: Path, data_root: Path, device: str) -> State:
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
    ledger.computes_on("cpu")
    if ledger.preparation() is None:
        train(job.attack_job_id, ledger, store_root, dies=job.spec.seed == DIES_TRAINING)
    if ledger.preparation().clean_predictions != (1, 2):
        raise AssertionError("another preparation")
    done = ledger.recorded_verdicts()
    own = range(shard_index, job.spec.sample_count, job.spec.shard_count)
    todo = [index for index in reversed(own) if index not in done]
    while todo:
        if job.spec.seed == LAST_SHARD_FAILS and shard_index == job.spec.shard_count - 1 and len(todo) < len(own) - 3:
            raise DatasetUnavailable("the dataset is not there; give --data-root")
        if ledger.cancel_requested():
            ledger.record([outcome(todo[0])], [], 0.1)
            return State.CANCELED
        time.sleep(STEP_SECONDS)
        ledger.record([outcome(todo.pop(0))], [InFlight(index, 1, 2, 1, 0.1) for index in todo[:2]], 0.1)
        ledger.progress(Progress(Phase.ATTACKING, len(own) - len(todo), len(own), len(todo) * STEP_SECONDS))
    if neighbours := ledger.neighbour_count():
        ledger.timing_violation(f"{neighbours + 1} runs shared the cpu")
    return State.SUCCEEDED


if __name__ == "__main__":
    types = get_type_hints(WorkSettings)
    options = dict(argument.split("=", 1) for argument in sys.argv[3:])
    settings = WorkSettings(
        redis_url=sys.argv[1], store=sys.argv[2], **{name: types[name](value) for name, value in options.items()}
    )
    work(settings, os.environ, lambda: print("ready", flush=True), run)
