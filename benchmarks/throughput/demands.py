"""What is demanded of ours, judged on one run's figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from throughput.cases import Case
from throughput.measuring import Findings, Laps
from throughput.ours import Account

OURS, JOB, FLOOR, ART = "ours", "job", "floor", "ART"
_SAME_STEPS = 0.995
# How much less, or further away, rounding may find, and searches by chance.
_SUCCESS_TOLERANCE, _CHANCE_TOLERANCE, _DISTANCE_TOLERANCE = 0.02, 0.05, 1.02
_BY_CHANCE = ("apgd", "square", "hopskipjump", "pixel", "threshold")
_MINIMUM_NORM = ("cw", "deepfool")


@dataclass(frozen=True, slots=True)
class Result:
    """A case's figures: seconds and findings by library, and the account of our own attack, if there is one.

    `missing` says why a library is not among them.
    """

    case: Case
    sample_count: int
    laps: Laps
    findings: Mapping[str, Findings]
    account: Account | None
    recording_share: float | None
    missing: Mapping[str, str]

    @property
    def peers(self) -> list[str]:
        return [name for name in self.findings if name not in (OURS, ART)]

    def same_steps(self, library: str) -> int:
        """How many samples that a library was looked at with fail by it at the same step as by ours, or by neither."""
        ours, theirs = self.findings[OURS].steps, self.findings[library].steps
        assert ours is not None
        assert theirs is not None
        return int((ours[: len(theirs)] == theirs).sum())

    def alike(self, one: str, other: str) -> tuple[Findings, Findings]:
        """The findings of two on the samples that both were looked at with: the first ones."""
        a, b = self.findings[one], self.findings[other]
        count = min(len(a.failed), len(b.failed))
        return a.first(count), b.first(count)

    def as_good(self, library: str) -> bool:
        """Whether a library fails as many samples as ours does, as near to their originals."""
        return self._less(library, OURS)

    def beats(self, library: str) -> bool:
        """Whether ours fails as many samples as a library does, as near."""
        return self._less(OURS, library)

    def _less(self, one: str, other: str) -> bool:
        a, b = self.alike(one, other)
        tolerance = _CHANCE_TOLERANCE if self.case.attack in _BY_CHANCE else _SUCCESS_TOLERANCE
        slack = max(1, round(tolerance * len(a.failed)))
        if int(a.failed.sum()) < int(b.failed.sum()) - slack:
            return False
        both = a.failed & b.failed
        if self.case.attack not in _MINIMUM_NORM or not both.any():
            return True
        return float(a.l2[both].median()) <= _DISTANCE_TOLERANCE * float(b.l2[both].median())


@dataclass(frozen=True, slots=True)
class Demand:
    """`met` is None where it could not be judged; `figure` says what was measured."""

    text: str
    figure: str
    met: bool | None


def judge(results: Mapping[str, Result]) -> list[Demand]:
    return [demand for result in results.values() for demand in _judge(result)]


def _judge(result: Result) -> Iterator[Demand]:
    name = result.case.name
    if result.account is None:
        yield Demand(f"{name}: an attack of ours", "none yet", None)
        return
    if name == "lockstep":
        yield _at_most(f"{name}: at most 1.10 x the floor", result.laps.ratio(OURS, FLOOR), 1.10)
    if result.case.full_floor:
        active = result.account.queries / result.sample_count / result.case.settings["steps"]
        over = result.laps.ratio(OURS, FLOOR) / active
        yield _at_most(f"{name}: at most 1.10 x the floor of the active steps ({active:.3f} of all)", over, 1.10)
        for library in result.findings:
            if library != OURS:
                same = result.same_steps(library)
                count = len(result.findings[library].failed)
                met = same >= _SAME_STEPS * count
                figure = f"{same} of {count}"
                yield Demand(f"{name}: the same samples fail at the same step as by {library}", figure, met)
    if name == "fixed":
        failed = result.findings[OURS].failed
        steps = result.findings[OURS].steps
        assert steps is not None
        share, mean = float(failed.float().mean()), float(steps[failed].float().mean())
        figure = f"{share:.0%} fail, at step {mean:.1f} on average"
        yield Demand(f"{name}: the case is as it should be", figure, share >= 0.9 and 8 <= mean <= 12)
        rows = result.account.rows / result.account.queries
        yield _at_most(f"{name}: rows through the model per row needed", rows, 1.02)
        yield from _faster(result, art=5, peer=3)
        assert result.recording_share is not None
        yield _at_most(f"{name}: share of the time spent on recording", result.recording_share, 0.03)
    if name == "few":
        yield from _faster(result, art=2, peer=None)
    if name == "deepfool":
        yield from _faster(result, art=7, peer=1.2)
    if name in ("cw", "apgd", "square"):
        yield from _faster(result, art=3, peer=1)
    if name in ("hopskipjump", "pixel", "threshold"):
        yield _at_most(f"{name}: at most 1.15 x its queries in full passes", result.laps.ratio(OURS, FLOOR), 1.15)
        yield from _faster(result, art=2, peer=None)


def _at_most(text: str, figure: float, limit: float) -> Demand:
    return Demand(text, f"{figure:.3f}", figure <= limit)


def _faster(result: Result, *, art: float, peer: float | None) -> Iterator[Demand]:
    """So many times as fast as ART, and as the fastest of those peers that find as much, at no less success.

    Where no peer finds as much, to be as fast as the fastest of all is more than was asked; to be slower says nothing.
    """
    name = result.case.name
    if ART in result.findings:
        ratio = result.laps.ratio(ART, OURS)
        yield Demand(f"{name}: at least {art:g} x as fast as ART", f"{ratio:.2f}", ratio >= art)
        figure = _success(result, ART)
        yield Demand(f"{name}: finds as much as ART", figure, result.beats(ART))
    else:
        yield Demand(f"{name}: at least {art:g} x as fast as ART", result.missing.get(ART, "not run"), None)
    if peer is None:
        return
    equal = [library for library in result.peers if result.as_good(library)]
    if not result.peers:
        yield Demand(f"{name}: at least {peer:g} x as fast as the fastest peer", "no peer has it", None)
        return
    fastest = max(equal or result.peers, key=lambda library: result.laps.ratio(OURS, library))
    ratio = result.laps.ratio(fastest, OURS)
    figure = f"{ratio:.2f} ({fastest}{'' if equal else ', and none finds as much'})"
    met = ratio >= peer if equal or ratio >= peer else None
    yield Demand(f"{name}: at least {peer:g} x as fast as the fastest peer", figure, met)
    yield Demand(f"{name}: finds as much as {fastest}", _success(result, fastest), result.beats(fastest))


def _success(result: Result, library: str) -> str:
    ours, theirs = result.alike(OURS, library)
    text = f"{int(ours.failed.sum())} and {int(theirs.failed.sum())} fail"
    both = ours.failed & theirs.failed
    if result.case.attack in _MINIMUM_NORM and both.any():
        text += f", median l2 {float(ours.l2[both].median()):.3f} and {float(theirs.l2[both].median()):.3f}"
    return text
