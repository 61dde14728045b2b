"""What is going on, on standard error: bars that move on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from cli.quantities import (
    count,
    distribution_word,
    duration,
    has_numbers,
    number,
    on_clock,
    quantity_word,
    remaining,
    share,
)

if TYPE_CHECKING:
    from afr.attack.v1.attack_service_pb2 import AttackJob
    from afr.survival.v1.survival_service_pb2 import ReportProgress

_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 10.0
_LOADING, _TRAINING, _EVALUATING, _ATTACKING = 1, 2, 3, 4
_QUEUED = 1


@dataclass(slots=True)
class View:
    """What a display shows."""

    waiting_for: str = ""
    """What has to happen before anything else can be shown, for example `the worker to start`."""
    job: AttackJob | None = None
    report_progress: ReportProgress | None = None
    seconds_per_sample: float = 0.0

    def step(self) -> str:
        """The part of the work under way; a display says at once when it changes."""
        if self.job is None or self.job.state == _QUEUED:
            return "waiting"
        return {_LOADING: "loading", _TRAINING: "training", _EVALUATING: "measuring", _ATTACKING: "attacking"}.get(
            self.job.progress.phase, "starting"
        )


class Display(Protocol):
    """Shows views and notes."""

    def update(self, view: View) -> None:
        """Show where things stand. Called often; shows as often as is good to look at."""

    def note(self, sentence: str) -> None:
        """Show a sentence that stays."""

    def close(self) -> None:
        """Leave the terminal as a prompt wants it."""


class Warnings:
    """Shows each warning of a job once."""

    def __init__(self, display: Display, *, own_worker: bool) -> None:
        self._display, self._own_worker = display, own_worker
        self._said: set[str] = set()

    def show(self, job: AttackJob) -> None:
        """Show the warnings that are new."""
        for warning in job.warnings:
            # That there is no worker is no news while our own is starting; its death is noticed otherwise.
            if warning not in self._said and not (self._own_worker and "no worker" in warning):
                self._said.add(warning)
                self._display.note(f"note: {warning}")


def choose_display(*, quiet: bool, stream: TextIO | None = None) -> Display:
    """The display that suits the stream, standard error by default."""
    stream = stream or sys.stderr
    if quiet:
        return Silence()
    if stream.isatty() and os.environ.get("TERM", "") != "dumb":
        return Bars(stream)
    return Lines(stream)


class Silence:
    """Shows nothing."""

    def update(self, view: View) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """For logs and pipes: a line when the work moves on to its next part, and one now and then."""

    def __init__(self, stream: TextIO, every_seconds: float = _LINE_SECONDS) -> None:
        self._stream, self._every = stream, every_seconds
        self._step, self._last, self._shown = "", 0.0, ""

    def update(self, view: View) -> None:
        now = time.monotonic()
        if view.step() == self._step and now - self._last < self._every:
            return
        said = "; ".join(part for part in describe(view, bar_width=0, marks=_ASCII) if part)
        if said and said != self._shown:
            self.note(said)
            self._shown = said
        self._step, self._last = view.step(), now

    def note(self, sentence: str) -> None:
        _write(self._stream, f"{sentence}\n")

    def close(self) -> None:
        pass


class Bars:
    """For terminals: a few lines that are drawn again in place, at most ten times a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._last = stream, 0.0
        self._lines: list[str] = []
        self._drawn: list[str] = []
        encoding = (stream.encoding or "ascii").lower().replace("-", "")
        self._marks = _BLOCKS if encoding == "utf8" else _ASCII

    def update(self, view: View) -> None:
        now = time.monotonic()
        if now - self._last < _REDRAW_SECONDS:
            return
        self._last = now
        width = shutil.get_terminal_size().columns
        lines = describe(view, bar_width=max(4, min(30, width - 58)), marks=self._marks)
        # A line that wraps would make the next drawing start in the wrong place.
        self._lines = [line[: width - 1] for line in lines if line]
        if self._lines != self._drawn:
            self._draw("", self._lines)

    def note(self, sentence: str) -> None:
        self._draw(f"{sentence}\n", self._lines)

    def close(self) -> None:
        self._lines = []
        self._draw("", [])

    def _draw(self, before: str, lines: list[str]) -> None:
        """Replace what is drawn, in one write: what happens between two of them can be seen."""
        erase = f"\x1b[{len(self._drawn)}F\x1b[J" if self._drawn else ""
        _write(self._stream, erase + before + "".join(f"{line}\n" for line in lines))
        self._drawn = lines


def _write(stream: TextIO, text: str) -> None:
    # The terminal may have been closed; the work, or its orderly end, goes on without it.
    with contextlib.suppress(OSError):
        stream.write(text)
        stream.flush()


_BLOCKS, _ASCII = ("█", "░"), ("#", ".")


def bar(done: float, total: float, width: int, marks: tuple[str, str] = _BLOCKS) -> str:
    """A bar of `width` characters, `done` of `total` of it full."""
    full = round(width * min(1.0, max(0.0, done / total))) if total else 0
    return marks[0] * full + marks[1] * (width - full)


def describe(view: View, *, bar_width: int, marks: tuple[str, str]) -> list[str]:
    """The lines that a display shows, each for 80 columns; without bars if their width is 0."""
    job = view.job
    if job is None or view.step() == "waiting":
        return [f"waiting for {view.waiting_for}" if view.waiting_for else "waiting for a worker"]
    progress, spec = job.progress, job.spec
    parts: list[str] = []
    details: list[str] = []
    if bar_width and progress.total_count:
        parts.append(bar(progress.done_count, progress.total_count, bar_width, marks))
    if progress.total_count:
        parts.append(f"{100 * progress.done_count // progress.total_count:3d} %")
    if view.step() == "training":
        title = f"training {spec.model}"
        parts.append(f"epoch {progress.epoch}/{spec.epoch_count}")
        if progress.loss:
            details.append(f"loss {number(progress.loss)}")
        if progress.accuracy:
            details.append(f"accuracy {share(progress.accuracy)}")
    elif view.step() == "attacking":
        title = f"attacking with {spec.attack}"
        details.append(f"{count(progress.done_count)}/{count(progress.total_count)} samples")
        details.append(f"{count(progress.failed_count)} failed")
        details.append(f"{count(progress.survived_count)} survived")
        if view.seconds_per_sample:
            details.append(f"{duration(view.seconds_per_sample)}/sample")
    else:
        title = {
            "loading": f"loading {spec.dataset} and {spec.model}",
            "measuring": f"measuring {spec.model} on clean samples",
        }.get(view.step(), "the worker is getting ready")
    if progress.HasField("remaining_duration"):
        parts.append(f"ETA {remaining(progress.remaining_duration.ToTimedelta().total_seconds())}")
    said = view.report_progress
    return ["  ".join([title, *parts]), "  ".join(details), provisional(said), precision(said)]


def precision(progress: ReportProgress | None) -> str:
    """How wide the interval is that the job waits for, beside the wanted width; empty if it waits for none."""
    if progress is None or not progress.HasField("stopping"):
        return ""
    stopping = progress.stopping
    wanted = f"×/÷ {number(stopping.interval_factor)} wanted"
    if not stopping.looks:
        return f"{quantity_word(stopping.quantity)}: {wanted}, no look yet ({count(progress.failed_count)} failed)"
    last, looks = stopping.looks[-1], len(stopping.looks)
    return (
        f"{quantity_word(stopping.quantity)} known to ×/÷ {number(last.interval_factor)}, {wanted} "
        f"({looks} look{'' if looks == 1 else 's'})"
    )


def provisional(progress: ReportProgress | None) -> str:
    """The median of the best fit so far; empty as long as no fit has numbers."""
    if progress is None:
        return ""
    fits = [fit for fit in progress.provisional_fits if has_numbers(fit) and fit.median.HasField("value")]
    if not fits:
        return ""
    best = min(fits, key=lambda fit: fit.aic)
    unit = " queries" if best.clock != 1 else ""
    return (
        f"provisional median {on_clock(best.median, best.clock)}{unit} ({distribution_word(best.distribution)}, "
        f"{count(progress.in_flight_count)} in flight)"
    )
