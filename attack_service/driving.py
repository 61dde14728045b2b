"""The loops that drive attacks: batches stay full, and a sample that has failed costs nothing more.

Continuous batching: the slot of a sample that has failed or outlived its attack is given to the next one at once, as
servers of language models batch their tokens. Only when nobody waits any more do the passes become narrower.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attack_service.attacks.lockstep import Arrivals, LockstepAttack, State
from attack_service.attacks.querying import Answer, Interview, QueryAttack, Question
from attack_service.clocks import Clock
from attack_service.errors import IntegrityViolated
from attack_service.handles import Evaluation, Handle, Objective
from attack_service.judging import Judge
from attack_service.watching import Checks, Counts, Flags, Samples, Watch

_IDLE = -1
# Some sums over a single row are divided among threads, and then rounded otherwise than those over many.
_FEWEST_ROWS = 2
# Samples whose questions share a pass, if they have many: more of them keep more memory.
_FEWEST_LIVE = 4


def drive_lockstep(
    attack: LockstepAttack,
    samples: Samples,
    handle: Handle,
    judge: Judge,
    watch: Watch,
    clock: Clock,
    device: torch.device,
) -> None:
    """Attack all samples in `handle.width` slots, until the last has ended or the job is canceled."""
    waiting = deque(range(len(samples)))

    def admit(count: int) -> tuple[list[int], Arrivals]:
        rows = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        watch.admit(rows)
        return rows, _arrivals(samples, rows, device)

    if not waiting:
        return
    slots, arrivals = admit(handle.width)
    clock.restart()
    state = attack.start(arrivals)
    spent = np.zeros(len(slots), dtype=np.int64)
    remaining = np.full(len(slots), attack.evaluation_count)
    while True:
        if len(slots) < _FEWEST_ROWS:
            state = state.take(torch.zeros(_FEWEST_ROWS, dtype=torch.int64, device=device))
            slots = slots + [_IDLE] * (_FEWEST_ROWS - len(slots))
            spent, remaining = np.resize(spent, _FEWEST_ROWS), np.resize(remaining, _FEWEST_ROWS)
        rows = np.array(slots)
        active = np.flatnonzero(rows != _IDLE)
        # The last evaluation of a sample is judged and leads nowhere.
        differentiates = attack.gradient_count > 0 and bool((remaining[active] > 1).any())
        evaluation = handle.evaluate(state.inputs, partial(_objective, attack, state) if differentiates else None)
        logits = evaluation.logits
        judgement = judge.judge(state.inputs, state.originals, state.labels, logits)
        facts = torch.stack(
            [
                judgement.predictions,
                judgement.fooled,
                judgement.rejected,
                state.checked,
                attack.finished(state, logits),
                state.remaining,
                logits.isnan().any(dim=1),
            ]
        )
        predictions, fooled, rejected, checked, finished, remaining, broken = facts.cpu().numpy()
        _require_numbers(broken[active])
        finished = finished.astype(bool) | (remaining <= 1)
        seconds = clock.lap()
        spent += 1
        gradient_counts = (spent - 1) * attack.gradient_count
        ended = watch.record(
            Checks(
                rows=rows[active],
                inputs=_rows_of(state.inputs, active),
                originals=_rows_of(state.originals, active),
                predictions=predictions[active],
                fooled=fooled[active].astype(bool),
                rejected=rejected[active].astype(bool),
                check_counts=checked[active],
                query_counts=spent[active],
                gradient_counts=gradient_counts[active],
                held_counts=np.zeros(len(active), dtype=np.int64),
                shares=np.ones(len(active), dtype=np.int64),
                finished=finished[active],
            ),
            seconds,
        )
        if watch.canceled:
            return
        for slot in active[ended].tolist():
            slots[slot] = _IDLE
        free = [slot for slot, row in enumerate(slots) if row == _IDLE]
        arriving = admit(len(free)) if free and waiting else None
        # What recording took, and reading images, is no part of the attack.
        clock.restart()
        state.remaining -= 1
        remaining -= 1
        left = len(active) - int(ended.sum())
        if not left and arriving is None:
            return
        if left:
            attack.advance(state, logits, evaluation.gradients)
        if arriving is not None:
            arrived, arrivals = arriving
            taken = free[: len(arrived)]
            state.put(torch.tensor(taken, device=device), attack.start(arrivals))
            for slot, row in zip(taken, arrived, strict=True):
                slots[slot] = row
            spent[taken], remaining[taken] = 0, attack.evaluation_count
        if not waiting and _IDLE in slots:
            kept = [slot for slot, row in enumerate(slots) if row != _IDLE]
            state = state.take(torch.tensor(kept, device=device))
            slots = [slots[slot] for slot in kept]
            spent, remaining = spent[kept], remaining[kept]


def drive_queries(
    attack: QueryAttack,
    samples: Samples,
    handle: Handle,
    judge: Judge,
    watch: Watch,
    clock: Clock,
    device: torch.device,
) -> None:
    """Attack all samples, many at once, with their questions pooled into passes of `handle.width` rows."""
    live: deque[_Live] = deque()
    try:
        _drive_queries(attack, samples, handle, judge, watch, clock, device, live)
    finally:
        # Also when the job is canceled or an error ends it: what an attack has begun it must undo.
        for one in live:
            one.interview.close()


def _drive_queries(
    attack: QueryAttack,
    samples: Samples,
    handle: Handle,
    judge: Judge,
    watch: Watch,
    clock: Clock,
    device: torch.device,
    live: deque[_Live],
) -> None:
    waiting = deque(range(len(samples)))
    # Samples whose images have been read; every one that begins asks at least one question of a pass.
    ready: deque[tuple[int, Arrivals]] = deque()
    while True:
        while waiting and len(ready) < max(handle.width, _FEWEST_LIVE):
            ready.append((waiting[0], _arrivals(samples, [waiting.popleft()], device)))
        # What recording took, and reading images, is no part of the attack.
        clock.restart()
        # As many samples as fill a pass: those with few questions at a time share it with many others.
        unanswered_count = sum(one.unanswered_count for one in live)
        while ready and (unanswered_count < handle.width or len(live) < _FEWEST_LIVE):
            row, arrivals = ready.popleft()
            watch.admit([row])
            live.append(_begin(attack, row, arrivals))
            unanswered_count += live[-1].unanswered_count
        if not live:
            return
        asked = _choose(live, handle.width)
        kind = asked[0].one.question.gradient_count
        counts = [part.size for part in asked]
        inputs = torch.cat([part.images for part in asked]) if len(asked) > 1 else asked[0].images
        owners = np.repeat(np.arange(len(asked)), counts)
        originals = torch.stack([part.one.image for part in asked])
        labels = torch.from_numpy(np.array([part.one.label for part in asked])[owners]).to(device)
        evaluation = handle.evaluate(inputs, _pooled_objective(asked))
        judgement = judge.judge(inputs, originals, labels, evaluation.logits, torch.from_numpy(owners).to(device))
        facts = torch.stack(
            [
                judgement.predictions,
                judgement.predictions != labels,
                judgement.fooled,
                judgement.rejected,
                evaluation.logits.isnan().any(dim=1),
            ]
        )
        predictions, wrong, fooled, rejected, broken = facts.cpu().numpy()
        _require_numbers(broken)
        misclassified = (wrong != 0) & (rejected == 0)
        # The first row that fooled the model, of every sample that has one.
        hits = {int(owners[row]): row for row in np.flatnonzero(fooled)[::-1].tolist()}
        said: list[_Said] = []
        begin = 0
        for position, part in enumerate(asked):
            one, end = part.one, begin + part.size
            hit = hits.get(position) if one.question.checked else None
            place = end - 1 if hit is None else hit
            if one.question.checked or one.last is None:
                one.last = _Judged(inputs, place, int(predictions[place]), bool(rejected[place]))
            heard_count = place - begin + 1
            said.append(
                _Said(
                    one.row,
                    one.last,
                    hit is not None,
                    heard_count if one.question.checked else 0,
                    one.query_count + heard_count,
                    one.gradient_count + kind * (heard_count - 1),
                    # What came between the last check and the first row of this pass was none.
                    one.query_count + heard_count - 1 if heard_count > 1 else 0,
                    part.size,
                    hit is None and not one.hear(evaluation, misclassified, slice(begin, end)),
                )
            )
            one.query_count += part.size
            one.gradient_count += kind * part.size
            begin = end
        seconds = clock.lap()
        ended = watch.record(_checks(said, originals), seconds)
        turned = {id(part.one) for part in asked}
        others = [one for one in live if id(one) not in turned]
        if watch.canceled:
            _abandon(others, watch)
            return
        for part, over in zip(asked, ended.tolist(), strict=True):
            if over:
                part.one.interview.close()
            else:
                # Whoever was asked goes to the end of the queue, so that all get on alike.
                others.append(part.one)
        live.clear()
        live.extend(others)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A judged image, by its place in a pass; its predicted class, and whether the defence abstained."""

    inputs: Tensor
    place: int
    prediction: int
    rejected: bool


class _Said(NamedTuple):
    """What a pass said of a sample: a row of `Checks`."""

    row: int
    judged: _Judged
    fooled: bool
    check_count: int
    query_count: int
    gradient_count: int
    held_count: int
    share: int
    finished: bool


def _checks(said: list[_Said], originals: Tensor) -> Checks:
    rows, judged, fooled, check_counts, query_counts, gradient_counts, held_counts, shares, finished = zip(
        *said, strict=True
    )
    inputs, places = judged[0].inputs, np.array([one.place for one in judged])
    if any(one.inputs is not inputs for one in judged):
        # Some were judged in an earlier pass.
        inputs, places = torch.stack([one.inputs[one.place] for one in judged]), np.arange(len(judged))
    return Checks(
        rows=np.array(rows),
        inputs=inputs,
        originals=originals,
        predictions=np.array([one.prediction for one in judged]),
        fooled=np.array(fooled),
        rejected=np.array([one.rejected for one in judged]),
        check_counts=np.array(check_counts),
        query_counts=np.array(query_counts),
        gradient_counts=np.array(gradient_counts),
        held_counts=np.array(held_counts),
        shares=np.array(shares),
        finished=np.array(finished),
        places=places,
    )


@dataclass(slots=True)
class _Live:
    """A sample under an attack that asks: its question, and the answers there are to a part of it."""

    row: int
    label: int
    image: Tensor
    interview: Interview
    question: Question
    unanswered_count: int
    answers: list[Answer] = field(default_factory=list)
    query_count: int = 0
    gradient_count: int = 0
    last: _Judged | None = None

    def hear(self, evaluation: Evaluation, misclassified: Flags, rows: slice) -> bool:
        """Take the answers in these rows; False if the attack has heard enough and gives up."""
        gradients = None if evaluation.gradients is None else evaluation.gradients[rows]
        self.answers.append(Answer(evaluation.logits[rows], gradients, misclassified[rows]))
        self.unanswered_count -= rows.stop - rows.start
        if self.unanswered_count:
            return True
        answer = self.answers[0] if len(self.answers) == 1 else _joined(self.answers)
        self.answers = []
        try:
            self.question = self.interview.send(answer)
        except StopIteration:
            return False
        self.unanswered_count = self.question.images.shape[0]
        return True


class _Part(NamedTuple):
    """The next unanswered images of a sample's question, so many."""

    one: _Live
    size: int

    @property
    def images(self) -> Tensor:
        images, left = self.one.question.images, self.one.unanswered_count
        count = images.shape[0]
        return images if self.size == count else images[count - left : count - left + self.size]


def _joined(answers: list[Answer]) -> Answer:
    parts = [answer.gradients for answer in answers if answer.gradients is not None]
    return Answer(
        torch.cat([answer.logits for answer in answers]),
        torch.cat(parts) if parts else None,
        np.concatenate([answer.misclassified for answer in answers]),
    )


def _arrivals(samples: Samples, rows: list[int], device: torch.device) -> Arrivals:
    indices = samples.indices[rows]
    return Arrivals(samples.images(indices).to(device), samples.labels[rows].to(device), indices.tolist())


def _rows_of(images: Tensor, rows: Counts) -> Tensor:
    return images if len(rows) == len(images) else images[torch.from_numpy(rows).to(images.device)]


def _objective(attack: LockstepAttack, state: State, logits: Tensor, rows: slice) -> Tensor:
    return attack.objective(state, logits, rows)


def _begin(attack: QueryAttack, row: int, arrivals: Arrivals) -> _Live:
    image, label = arrivals.images[0], int(arrivals.labels[0])
    interview = attack.ask(image, label, arrivals.sample_indices[0])
    question = next(interview)
    return _Live(row, label, image, interview, question, len(question.images))


def _choose(live: deque[_Live], width: int) -> list[_Part]:
    """Questions for one pass, all of the kind of the first; a sample's may be divided among several passes.

    The pass is shared fairly, so that all get on alike, and what is asked about a sample after its failure is little.
    But nobody gets so few rows that the passes become many.
    """
    kind = live[0].question.gradient_count
    able = [one for one in live if one.question.gradient_count == kind]
    able.sort(key=lambda one: one.unanswered_count)
    least = -(-width // _FEWEST_LIVE)
    asked, free = [], width
    for position, one in enumerate(able):
        if not free:
            break
        count = min(one.unanswered_count, max(free // (len(able) - position), least), free)
        asked.append(_Part(one, count))
        free -= count
    return asked


def _pooled_objective(asked: list[_Part]) -> Objective | None:
    """The objectives of all questions in a pass, in their order; None if they ask for no gradients."""
    if not asked[0].one.question.gradient_count:
        return None

    def objective(logits: Tensor, rows: slice) -> Tensor:
        parts, begin = [], 0
        for one, size in asked:
            end = begin + size
            low, high = max(begin, rows.start), min(end, rows.stop)
            if low < high and one.question.objective is not None:
                parts.append(one.question.objective(logits[low - rows.start : high - rows.start]))
            begin = end
        return torch.cat(parts)

    return objective


def _abandon(others: list[_Live], watch: Watch) -> None:
    """The job is canceled: samples that were not in the last pass have survived their last check."""
    known = [(one, one.last) for one in others if one.last is not None]
    if not known:
        watch.finish()
        return
    said = [_Said(one.row, last, False, 0, 0, 0, 0, 0, True) for one, last in known]
    watch.record(_checks(said, torch.stack([one.image for one, _ in known])), 0.0)


def _require_numbers(broken: Counts) -> None:
    """Raise `IntegrityViolated` if the model's answer is no number: the largest of such logits is no class."""
    if broken.any():
        raise IntegrityViolated(
            "the model answers an attacked image with what is not a number, so nobody can say whether it was "
            "fooled; train another with another --seed"
        )
