"""The ledger in memory keeps what a run writes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attack_service.jobs import MemoryLedger
from attack_service.outcomes import InFlight, Outcome, Verdict

OUTCOME = Outcome(3, Verdict.SURVIVED, 1, 1, 1, 11, None, 10, None, 0.5, None, 0.1, 0.1, 4, 10, 0.01)


def test_recorded_samples_are_known_to_the_next_attempt() -> None:
    ledger = MemoryLedger()
    ledger.record([OUTCOME, replace(OUTCOME, sample_index=5)], [InFlight(6, 1, 2, 1, 0.1)], 0.01)
    assert ledger.recorded_verdicts() == {3: Verdict.SURVIVED, 5: Verdict.SURVIVED}
    assert [sample.sample_index for sample in ledger.in_flight] == [6]


def test_a_sample_is_recorded_once() -> None:
    ledger = MemoryLedger()
    ledger.record([OUTCOME], [], 0.01)
    with pytest.raises(ValueError, match="samples recorded twice"):
        ledger.record([OUTCOME], [], 0.01)
