"""What the server and the worker can be told on the command line or by the environment; a flag wins."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

Settings = TypeVar("Settings", "ServeSettings", "WorkSettings")


def _option(default: Any, variable: str, text: str, metavar: str = "", choices: tuple[str, ...] = ()) -> Any:
    metadata = {"variable": variable, "help": text, "metavar": metavar or None, "choices": choices or None}
    return field(default=default, metadata=metadata)


_REDIS_URL = ("redis://127.0.0.1:6379/0", "AFR_REDIS_URL", "the Redis server that holds jobs, outcomes and the queue")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """The settings of the attack server. Seconds are positive and finite, or `ValueError`."""

    address: str = _option("127.0.0.1:50051", "AFR_ADDRESS", "where to listen; port 0 takes a free one", "HOST:PORT")
    redis_url: str = _option(*_REDIS_URL, "URL")
    heartbeat_seconds: float = _option(
        8.0, "AFR_HEARTBEAT_SECONDS", "the longest silence on a stream of outcomes; clients expect at most 15", "S"
    )
    redis_patience_seconds: float = _option(
        6.0, "AFR_SERVER_REDIS_PATIENCE_SECONDS", "how long a call waits for a Redis that does not answer", "S"
    )
    reconcile_seconds: float = _option(
        15.0, "AFR_RECONCILE_SECONDS", "how often jobs that the queue has lost are looked for", "S"
    )
    grace_seconds: float = _option(
        5.0, "AFR_GRACE_SECONDS", "how long calls may go on after SIGTERM before they are cut", "S"
    )

    def __post_init__(self) -> None:
        _check(self)
        host, _, port = self.address.rpartition(":")
        if not (host and port.isascii() and port.isdecimal() and int(port) < 65536):
            raise ValueError(f"address {self.address!r} is not HOST:PORT, such as 127.0.0.1:50051")
        if self.heartbeat_seconds > 15:
            raise ValueError("heartbeat_seconds may be at most 15: clients take a longer silence for a dead server")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSettings:
    """The settings of an attack worker. Seconds are positive and finite, or `ValueError`."""

    redis_url: str = _option(*_REDIS_URL, "URL")
    store: str = _option("", "AFR_STORE", "where trained models are kept (default: ~/.local/share/afr)", "DIR")
    data_root: str = _option("", "AFR_DATA_ROOT", "where datasets are kept (default: data in the store)", "DIR")
    device: str = _option(
        "auto", "AFR_DEVICE", "where to compute; auto takes a GPU if there is one", "", ("auto", "cpu", "cuda")
    )
    attempt_limit: int = _option(
        3, "AFR_ATTEMPT_LIMIT", "workers that a job may lose in a row, finishing no sample, before it is given up", "N"
    )
    visibility_seconds: float = _option(
        30.0, "AFR_VISIBILITY_SECONDS", "after this long without a sign of life a job goes to another worker", "S"
    )
    shutdown_seconds: float = _option(
        3.0, "AFR_SHUTDOWN_SECONDS", "how long a job may take to stop at SIGTERM before it is stopped by force", "S"
    )
    redis_patience_seconds: float = _option(
        120.0, "AFR_WORKER_REDIS_PATIENCE_SECONDS", "how long a job waits for a Redis that does not answer", "S"
    )

    def __post_init__(self) -> None:
        _check(self)
        if self.attempt_limit < 1:
            raise ValueError("attempt_limit must be at least 1")

    def store_root(self, environ: Mapping[str, str]) -> Path:
        """The folder of trained models; by default where the environment keeps a user's data."""
        if self.store:
            return Path(self.store).expanduser()
        return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "afr"

    def resolved_data_root(self, environ: Mapping[str, str]) -> Path:
        """The folder of datasets; by default inside the store."""
        return Path(self.data_root).expanduser() if self.data_root else self.store_root(environ) / "data"


def add_options(parser: argparse.ArgumentParser, kind: type[Settings]) -> None:
    """Give `parser` a flag for every field of `kind`. Flags not given are absent from what it parses."""
    types = get_type_hints(kind)
    for setting in fields(kind):
        meta = setting.metadata
        default = f", default {setting.default}" if setting.default != "" else ""
        parser.add_argument(
            "--" + setting.name.replace("_", "-"),
            type=types[setting.name],
            default=argparse.SUPPRESS,
            choices=meta["choices"],
            metavar=meta["metavar"],
            help=f"{meta['help']} ({meta['variable']}{default})",
        )


def read(kind: type[Settings], flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Build settings from parsed flags and, for those not given, the environment.

    Raises `ValueError` with a sentence if a variable or a value cannot be used.
    """
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for setting in fields(kind):
        variable = setting.metadata["variable"]
        if setting.name in flags:
            values[setting.name] = flags[setting.name]
        elif text := environ.get(variable):
            try:
                values[setting.name] = types[setting.name](text)
            except ValueError:
                raise ValueError(f"{variable} is {text!r}; it must be a number") from None
            choices = setting.metadata["choices"]
            if choices and text not in choices:
                raise ValueError(f"{variable} is {text!r}; known: {', '.join(choices)}")
    return kind(**values)


def _check(settings: ServeSettings | WorkSettings) -> None:
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        if isinstance(value, float) and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{setting.name} is {value:g}; it must be above 0 and finite")
