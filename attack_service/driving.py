"""The loops that drive attacks: batches stay full, and a sample that has failed costs nothing more.

Continuous batching: the slot of a sample that has failed or outlived its attack is given to the next one at once, as
servers of language models batch their tokens. Only when nobody waits any more do the passes become narrower.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial

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

    def admit(count: int) -> tuple[list[int], State]:
        rows = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        watch.admit(rows)
        return rows, attack.start(_arrivals(samples, rows, device))

    if not waiting:
        return
    clock.restart()
    slots, state = admit(handle.width)
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
        # What recording took is no part of the attack.
        clock.restart()
        if watch.canceled:
            return
        for slot in active[ended].tolist():
            slots[slot] = _IDLE
        state.remaining -= 1
        remaining -= 1
        left = len(active) - int(ended.sum())
        if not left and not waiting:
            return
        if left:
            attack.advance(state, logits, evaluation.gradients)
        free = [slot for slot, row in enumerate(slots) if row == _IDLE]
        if free and waiting:
            arrived, arriving = admit(len(free))
            taken = free[: len(arrived)]
            state.put(torch.tensor(taken, device=device), arriving)
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
    clock.restart()
    while True:
        # As many samples as fill a pass: those with few questions at a time share it with many others.
        unanswered_count = sum(one.unanswered_count for one in live)
        while waiting and unanswered_count < handle.width:
            rows = [waiting.popleft()]
            watch.admit(rows)
            live.append(_begin(attack, rows[0], _arrivals(samples, rows, device)))
            unanswered_count += live[-1].unanswered_count
        if not live:
            return
        asked = _choose(live, handle.width)
        kind = asked[0][0].question.gradient_count
        counts = np.array([places.stop - places.start for _, places in asked])
        first = np.cumsum(counts) - counts
        inputs = torch.cat([one.question.images[places] for one, places in asked])
        owners = torch.from_numpy(np.repeat(np.arange(len(asked)), counts)).to(device)
        originals = torch.stack([one.image for one, _ in asked])
        labels = torch.tensor([one.label for one, _ in asked], device=device)
        evaluation = handle.evaluate(inputs, _pooled_objective(asked))
        judgement = judge.judge(inputs, originals[owners], labels[owners], evaluation.logits)
        facts = torch.stack(
            [
                judgement.predictions,
                judgement.predictions != labels[owners],
                judgement.fooled,
                judgement.rejected,
                evaluation.logits.isnan().any(dim=1),
            ]
        )
        predictions, wrong, fooled, rejected, broken = facts.cpu().numpy()
        _require_numbers(broken)
        misclassified = (wrong != 0) & (rejected == 0)
        checked = np.array([one.question.checked for one, _ in asked])
        fooled = fooled.astype(bool) & np.repeat(checked, counts)
        # The first question that fooled the model, or else the last one.
        judged = np.array(
            [
                begin + (int(np.argmax(part)) if part.any() else len(part) - 1)
                for begin, part in zip(first, np.split(fooled, first[1:]), strict=True)
            ]
        )
        before = np.array([(one.query_count, one.gradient_count) for one, _ in asked])
        finished = np.zeros(len(asked), dtype=bool)
        last = []
        for position, ((one, places), begin, place) in enumerate(zip(asked, first, judged, strict=True)):
            one.query_count += places.stop - places.start
            one.gradient_count += kind * (places.stop - places.start)
            if checked[position]:
                one.last = (inputs[place], int(predictions[place]), bool(rejected[place]))
            last.append(one.last or (inputs[place], int(predictions[place]), bool(rejected[place])))
            if not fooled[place]:
                finished[position] = not one.hear(
                    evaluation, misclassified, slice(begin, begin + counts[position]), places.stop
                )
        seconds = clock.lap()
        asked_count = judged - first + 1
        ended = watch.record(
            Checks(
                rows=np.array([one.row for one, _ in asked]),
                inputs=torch.stack([image for image, _, _ in last]),
                originals=originals,
                predictions=np.array([prediction for _, prediction, _ in last]),
                fooled=fooled[judged],
                rejected=np.array([rejection for *_, rejection in last]),
                check_counts=asked_count * checked,
                query_counts=before[:, 0] + asked_count,
                gradient_counts=before[:, 1] + kind * (asked_count - 1),
                # What came between the last check and the first row of this pass was none.
                held_counts=(before[:, 0] + asked_count - 1) * (asked_count > 1),
                shares=counts,
                finished=finished,
            ),
            seconds,
        )
        clock.restart()
        turned = {id(one) for one, _ in asked}
        others = [one for one in live if id(one) not in turned]
        if watch.canceled:
            _abandon(others, watch)
            watch.finish()
            return
        for (one, _), over in zip(asked, ended, strict=True):
            if over:
                one.interview.close()
        # Whoever was asked goes to the end of the queue, so that all get on alike.
        stayed = [one for (one, _), over in zip(asked, ended, strict=True) if not over]
        live.clear()
        live.extend(others + stayed)


@dataclass(slots=True)
class _Live:
    """A sample under an attack that asks: its question, and the answers there are to a part of it."""

    row: int
    label: int
    image: Tensor
    interview: Interview
    question: Question
    answered_count: int = 0
    answers: list[Answer] = field(default_factory=list)
    query_count: int = 0
    gradient_count: int = 0
    last: tuple[Tensor, int, bool] | None = None
    """The last judged image, its predicted class, and whether the defence abstained."""

    @property
    def unanswered_count(self) -> int:
        return self.question.images.shape[0] - self.answered_count

    def hear(self, evaluation: Evaluation, misclassified: Flags, rows: slice, answered_count: int) -> bool:
        """Take the answers in these rows; False if the attack has heard enough and gives up."""
        gradients = None if evaluation.gradients is None else evaluation.gradients[rows]
        self.answers.append(Answer(evaluation.logits[rows], gradients, misclassified[rows]))
        self.answered_count = answered_count
        if self.unanswered_count:
            return True
        answer = self.answers[0] if len(self.answers) == 1 else _joined(self.answers)
        self.answers, self.answered_count = [], 0
        try:
            self.question = self.interview.send(answer)
        except StopIteration:
            return False
        return True


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
    return _Live(row, label, image, interview, next(interview))


def _choose(live: deque[_Live], width: int) -> list[tuple[_Live, slice]]:
    """Questions for one pass, in turn, all of the kind of the first; a sample's may be divided among several passes."""
    kind = live[0].question.gradient_count
    asked, free = [], width
    for one in live:
        if not free:
            break
        if one.question.gradient_count == kind:
            begin = one.answered_count
            end = min(len(one.question.images), begin + free)
            asked.append((one, slice(begin, end)))
            free -= end - begin
    return asked


def _pooled_objective(asked: list[tuple[_Live, slice]]) -> Objective | None:
    """The objectives of all questions in a pass, in their order; None if they ask for no gradients."""
    if not asked[0][0].question.gradient_count:
        return None

    def objective(logits: Tensor, rows: slice) -> Tensor:
        parts, begin = [], 0
        for one, places in asked:
            end = begin + places.stop - places.start
            low, high = max(begin, rows.start), min(end, rows.stop)
            if low < high and one.question.objective is not None:
                parts.append(one.question.objective(logits[low - rows.start : high - rows.start]))
            begin = end
        return torch.cat(parts)

    return objective


def _abandon(others: list[_Live], watch: Watch) -> None:
    """The job is canceled: samples that were not in the last pass have survived their last check."""
    known = [(one, *one.last) for one in others if one.last is not None]
    if not known:
        return
    n = len(known)
    none = np.zeros(n, dtype=np.int64)
    watch.record(
        Checks(
            rows=np.array([one.row for one, *_ in known]),
            inputs=torch.stack([image for _, image, _, _ in known]),
            originals=torch.stack([one.image for one, *_ in known]),
            predictions=np.array([prediction for _, _, prediction, _ in known]),
            fooled=np.zeros(n, dtype=bool),
            rejected=np.array([rejected for *_, rejected in known]),
            check_counts=none,
            query_counts=none,
            gradient_counts=none,
            held_counts=none,
            shares=none,
            finished=np.ones(n, dtype=bool),
        ),
        0.0,
    )


def _require_numbers(broken: Counts) -> None:
    """Raise `IntegrityViolated` if the model's answer is no number: the largest of such logits is no class."""
    if broken.any():
        raise IntegrityViolated(
            "the model answers an attacked image with what is not a number, so nobody can say whether it was "
            "fooled; train another with another --seed"
        )
