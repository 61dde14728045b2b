"""Where afrctl keeps what outlives one command."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """The folder of this user's state, by the XDG convention. It need not exist."""
    configured = os.environ.get("XDG_STATE_HOME", "")
    # The specification says that relative paths are invalid and to be ignored.
    base = Path(configured) if configured.startswith("/") else Path.home() / ".local" / "state"
    return base / "afr"
