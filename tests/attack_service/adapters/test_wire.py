"""The converters lose nothing."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attack_service import catalog
from attack_service.adapters import wire
from attack_service.jobs import AttackJob, AttackSpec, ModelRecord, Phase, Progress, State
from attack_service.outcomes import InFlight, Outcome, Tally, Verdict

COUNTS = st.integers(0, 2**32 - 1)
LONG_COUNTS = st.integers(0, 2**62)
SHARES = st.floats(0, 1)
SECONDS = st.floats(0, 1e9, allow_nan=False)
# A Duration has nanoseconds.
NANOSECONDS = st.integers(0, 10**15).map(lambda count: count / 1e9)
DISTANCES = st.floats(0, 1e6, width=32)
TEXTS = st.text(max_size=8)
PARAMETERS = st.dictionaries(TEXTS, st.floats(allow_nan=False), max_size=3)

SPECS = st.builds(
    AttackSpec,
    *(TEXTS, TEXTS, TEXTS, PARAMETERS, TEXTS, COUNTS, COUNTS, st.integers(0, 2**64 - 1), TEXTS, COUNTS, TEXTS, COUNTS),
    *(TEXTS, PARAMETERS),
    weights=TEXTS,
    checkpoint=TEXTS,
    program=TEXTS,
    training_seconds=SECONDS,
    training_sample_count=COUNTS,
    shard_count=COUNTS,
)
MODEL_RECORDS = st.builds(
    ModelRecord,
    *(TEXTS, NANOSECONDS, COUNTS, COUNTS, SHARES, COUNTS, LONG_COUNTS, COUNTS, TEXTS, TEXTS, st.booleans()),
    *(st.booleans(), LONG_COUNTS, SHARES, SHARES, st.booleans()),
)
PROGRESSES = st.builds(
    Progress,
    *(st.sampled_from(Phase), LONG_COUNTS, LONG_COUNTS, st.none() | NANOSECONDS, COUNTS, SECONDS, SHARES),
    *(COUNTS, COUNTS, COUNTS),
)


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    verdict = draw(st.sampled_from(Verdict))
    bounded = verdict in (Verdict.FAILED, Verdict.MISCLASSIFIED)
    queries, gradients = (sorted(draw(st.tuples(LONG_COUNTS, LONG_COUNTS))) for _ in range(2))
    seconds = sorted(draw(st.tuples(SECONDS, SECONDS)))
    return Outcome(
        *(draw(COUNTS), verdict, draw(COUNTS), draw(COUNTS), draw(COUNTS)),
        *(queries[0], queries[1] if bounded else None),
        *(gradients[0], gradients[1] if bounded else None),
        *(seconds[0], seconds[1] if bounded else None),
        *(draw(DISTANCES), draw(DISTANCES), draw(COUNTS), draw(COUNTS), draw(SECONDS)),
    )


IN_FLIGHT = st.builds(InFlight, COUNTS, COUNTS, LONG_COUNTS, LONG_COUNTS, SECONDS)
HEADER = wire.BatchHeader(0, 3, 17, "weights", "dataset", "spec", 0.125)


@given(SPECS)
def test_a_specification_comes_back(spec: AttackSpec) -> None:
    assert wire.spec_from_proto(wire.spec_to_proto(spec)) == spec


@given(MODEL_RECORDS)
def test_a_model_record_comes_back(record: ModelRecord) -> None:
    assert wire.model_record_from_proto(wire.model_record_to_proto(record)) == record


@given(PROGRESSES)
def test_progress_comes_back(progress: Progress) -> None:
    assert wire.progress_from_proto(wire.progress_to_proto(progress)) == progress


@given(st.lists(outcomes(), max_size=5), st.lists(IN_FLIGHT, max_size=5))
def test_a_batch_comes_back(finished: list[Outcome], in_flight: list[InFlight]) -> None:
    batch = wire.batch_to_proto(finished, in_flight, HEADER)
    assert wire.outcomes_from_proto(batch) == finished
    assert wire.in_flight_from_proto(batch.in_flight) == in_flight
    assert (batch.attempt, batch.sequence, batch.spec_digest, batch.seconds_per_query) == (3, 17, "spec", 0.125)


def test_a_survivor_has_minus_one_and_infinity_for_upper_bounds(make_outcome) -> None:
    batch = wire.batch_to_proto([make_outcome(4, Verdict.SURVIVED)], [], HEADER)
    assert (list(batch.query_count_upper), list(batch.gradient_count_upper)) == ([-1], [-1])
    assert list(batch.seconds_upper) == [math.inf]


def test_columns_of_different_lengths_are_refused(make_outcome) -> None:
    batch = wire.batch_to_proto([make_outcome(1)], [], HEADER)
    batch.label.append(3)
    with pytest.raises(ValueError, match="longer"):
        wire.outcomes_from_proto(batch)


@pytest.mark.parametrize("remaining", [None, math.inf, math.nan, -1.0])
def test_an_unknown_remaining_time_is_absent(remaining: float | None) -> None:
    message = wire.progress_to_proto(Progress(Phase.TRAINING, remaining_seconds=remaining))
    assert not message.HasField("remaining_duration")


def test_a_job_shows_all_it_knows(spec: AttackSpec) -> None:
    created = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    job = AttackJob(
        "id",
        spec,
        State.RUNNING,
        created,
        created,
        None,
        warnings=("barely better than chance",),
        timing_violations=("shared",),
    )
    message = wire.job_to_proto(job)
    assert message.create_time.ToDatetime(UTC) == created
    assert message.HasField("start_time")
    assert not message.HasField("end_time")
    assert not message.HasField("model_record")
    assert message.state == State.RUNNING.value
    assert list(message.warnings) == ["barely better than chance"]
    assert list(message.timing_violations) == ["shared"]


def test_the_end_carries_the_tally(spec: AttackSpec, make_outcome) -> None:
    tally = Tally().plus(wire.tally_rows([make_outcome(1), make_outcome(2, Verdict.SURVIVED)]))
    end = wire.end_to_proto(AttackJob("id", spec, State.SUCCEEDED, datetime.now(UTC)), tally)
    assert (end.outcome_count, end.failed_count, end.survived_count, end.misclassified_count) == (2, 1, 1, 0)
    assert end.checksum == tally.checksum != 0


@pytest.mark.parametrize(
    ("entries", "convert"),
    [
        (catalog.MODELS, wire.model_to_proto),
        (catalog.ATTACKS, wire.attack_to_proto),
        (catalog.DEFENCES, wire.defence_to_proto),
        (catalog.DATASETS, wire.dataset_to_proto),
    ],
)
def test_the_catalogue_is_shown_field_by_field(entries, convert) -> None:
    for entry in entries.values():
        message = convert(entry)
        for field in message.DESCRIPTOR.fields:
            shown, known = getattr(message, field.name), getattr(entry, field.name)
            if field.name == "parameters":
                for schema, parameter in zip(shown, known, strict=True):
                    names = [schema_field.name for schema_field in schema.DESCRIPTOR.fields]
                    sent = [getattr(schema, name) for name in names if name != "paper_values"]
                    assert sent == [getattr(parameter, name) for name in names if name != "paper_values"]
                    assert tuple(schema.paper_values) == parameter.paper_values
            else:
                assert shown == known or tuple(shown) == known, field.name
