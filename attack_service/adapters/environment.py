"""What must be in a worker's environment before Celery and torch are imported."""

from __future__ import annotations

import os


def prepare_environment() -> None:
    """Set what must be set before Celery and torch are imported, here and in the child."""
    # OpenMP threads that spin while they wait take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Celery's cold shutdown: tasks go back to the queue instead of being waited for.
    os.environ["REMAP_SIGTERM"] = "SIGQUIT"
