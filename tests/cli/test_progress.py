"""What is shown while a job runs, on a terminal and elsewhere."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from afr.attack.v1.attack_service_pb2 import AttackJob, AttackSpec, Progress
from afr.survival.v1.survival_service_pb2 import Fit, Report, ReportProgress

from cli import progress
from cli.progress import Bars, Lines, Silence, View, bar, choose_display, describe, provisional

SPEC = AttackSpec(model="resnet18", dataset="digits", attack="pgd", epoch_count=6)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def training(done: int) -> View:
    now = Progress(
        phase=Progress.PHASE_TRAINING, done_count=done, total_count=200, epoch=2, loss=0.1234, accuracy=0.961
    )
    now.remaining_duration.FromSeconds(41)
    return View(job=AttackJob(spec=SPEC, state=AttackJob.STATE_RUNNING, progress=now))


def attacking() -> View:
    now = Progress(phase=Progress.PHASE_ATTACKING, done_count=78, total_count=256, failed_count=41, survived_count=30)
    return View(job=AttackJob(spec=SPEC, state=AttackJob.STATE_RUNNING, progress=now), seconds_per_sample=0.123)


def test_training_shows_loss_accuracy_and_time_left() -> None:
    assert describe(training(124), bar_width=10, marks=("█", "░"))[:2] == [
        "training resnet18  ██████░░░░   62 %  epoch 2/6  ETA 41 s",
        "loss 0.123  accuracy 96.1 %",
    ]


def test_attacking_shows_what_happened_to_samples() -> None:
    assert describe(attacking(), bar_width=0, marks=("#", "."))[:2] == [
        "attacking with pgd   30 %",
        "78/256 samples  41 failed  30 survived  123 ms/sample",
    ]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_time_left_is_never_cut_off(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for view, last in ((training(124), "accuracy 96.1 %"), (attacking(), "/sample")):
        assert view.job is not None
        view.job.progress.remaining_duration.FromSeconds(3 * 3600)
        terminal = Terminal()
        Bars(terminal).update(view)
        assert "ETA 3 h 00 min\n" in terminal.getvalue()
        assert f"{last}\n" in terminal.getvalue()


@pytest.mark.parametrize(("done", "total", "shown"), [(0, 0, "...."), (1, 2, "##.."), (9, 2, "####"), (-1, 2, "....")])
def test_a_bar_never_leaves_its_place(done: float, total: float, shown: str) -> None:
    assert bar(done, total, 4, ("#", ".")) == shown


def test_the_provisional_median_is_that_of_the_best_fit_with_numbers(reports: dict[str, Callable[[], Report]]) -> None:
    fits = list(reports["good"]().clock_reports[0].fits)
    without = Fit(status=Fit.STATUS_NO_FAILURE, aic=0)
    said = provisional(ReportProgress(failed_count=34, in_flight_count=12, provisional_fits=[without, *reversed(fits)]))
    assert said == "provisional median 7.60 [6.25, 9.25] queries (Weibull, 12 in flight)"
    assert provisional(ReportProgress(provisional_fits=[without])) == ""
    assert provisional(None) == ""


def test_bars_are_drawn_over_themselves_and_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0.0)
    terminal = Terminal()
    bars = Bars(terminal)
    bars.update(training(10))
    once = terminal.getvalue()
    bars.update(training(10))
    assert terminal.getvalue() == once
    bars.update(training(20))
    bars.note("a sentence")
    bars.close()
    written = terminal.getvalue()
    assert written.count("\x1b[2F\x1b[J") == 3
    assert "\x1b[2F\x1b[Ja sentence\ntraining" in written
    assert written.endswith("\x1b[2F\x1b[J")


def test_bars_are_drawn_ten_times_a_second_at_most() -> None:
    terminal = Terminal()
    bars = Bars(terminal)
    for done in range(100):
        bars.update(training(done))
    assert terminal.getvalue().count("training") <= 2


@pytest.mark.parametrize("display", [Bars, Lines])
def test_a_closed_terminal_ends_no_work(display: type[Bars] | type[Lines]) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    shown = display(Gone())
    shown.update(attacking())
    shown.note("a sentence")
    shown.close()


def test_elsewhere_a_line_says_when_the_work_moves_on() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    for view in (View(), View(), training(10), training(20), attacking(), attacking()):
        lines.update(view)
    lines.close()
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == ["waiting", "training", "attacking"]
    assert "\x1b" not in stream.getvalue()


def test_the_display_suits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(choose_display(quiet=False, stream=Terminal()), Bars)
    assert isinstance(choose_display(quiet=False, stream=io.StringIO()), Lines)
    assert isinstance(choose_display(quiet=True, stream=Terminal()), Silence)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose_display(quiet=False, stream=Terminal()), Lines)
