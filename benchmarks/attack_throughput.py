"""How fast are our attacks, beside other libraries and beside what cannot be avoided?

    python benchmarks/attack_throughput.py [--quick] [--cases fixed,deepfool] [--repeats 5] [--output FILE] [--check]

One table, all in one run on the same trained model and the same samples (`throughput/ground.py`, `cases.py`):

- floor: for PGD, steps x one forward and one input-gradient backward evaluation of every sample; for the others, the
  evaluations that ours needed, in full passes of 64 rows; on our frozen model, and nothing else.
- ours: by the path of a job, judged at every step, every sample's clocks kept, outcomes written to a ledger in memory.
- job, in the fixed case: the same with all that a job asks the model besides: whether it can be attacked at all, and
  every adversarial image once more, to verify it.
- ART, torchattacks, Foolbox, adv-lib: as they come, on the model as it was trained and as a checkpoint is loaded (its
  weights require gradients, its batch norms are not folded, its memory format is torch's default), in batches of 64.
  What they find is judged alike. With `, frozen`, in the fixed case: the same on our frozen model.

Figures are medians, over interleaved repeats, of CPU seconds of all threads (on a GPU of wall seconds); a ratio is
the median of the repeats' ratios. Where a library makes the same of a batch whatever comes before and after it, or
takes one sample after the other, a repeat times it on a part of the samples, another one each time, and its seconds
are scaled up to all of them; so are those of the floor of PGD. Before them every way runs once to warm up and to be
looked at: the samples that fail, the step of failure where it can be told from outside, the length of the change, the
rows that went through the model.

The active steps of a sample are the passes through the model that it needs: the one of the clean sample, and one for
every iterate up to its failure or to the end of its budget.

The demands on ours are judged below the table; with `--check` the script fails if one is missed. A full run takes less
than half an hour on two cores. `--quick` takes less than a minute: few samples and steps and one repeat, for a look,
not for figures.
"""

from __future__ import annotations

import os

# Before torch is imported: OpenMP threads that spin while they wait make busy cores ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import platform
import random
import statistics
import warnings
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from throughput.cases import CASES, Case
from throughput.demands import FLOOR, JOB, OURS, Demand, Result, judge
from throughput.ground import SLOTS, Ground, prepare
from throughput.measuring import Attack, Findings, Laps, Way, divided, interleave, piecewise, timed, watch, whole
from throughput.ours import Account, Ours, evaluations, gradient_passes, has_attack
from throughput.peers import LIBRARIES
from torch import Tensor

from attack_service.devices import choose_device, device_name, exact_arithmetic, keep_memory

FROZEN = ", frozen"
_VERSIONS = ("torch", "numpy", "adversarial-robustness-toolbox", "torchattacks", "foolbox", "adv-lib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    parser.add_argument("--repeats", type=int, default=0, help="interleaved repeats; 5, with --quick 1")
    parser.add_argument("--threads", type=int, default=1, help="of torch's arithmetic")
    parser.add_argument("--quick", action="store_true", help="few samples, one repeat")
    parser.add_argument("--output", type=Path, help="write all figures there as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a demand is missed")
    options = parser.parse_args()
    known = {case.name: case for case in CASES}
    chosen = options.cases.split(",")
    unknown = [name for name in chosen if name not in known]
    if unknown:
        parser.error(f"unknown cases {unknown}; known: {', '.join(known)}")
    if options.quick and options.check:
        parser.error("--quick measures too little to check anything; leave one of the two out")
    # The other libraries warn of their own use of numpy, torch and setuptools.
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    # As a worker does, and so for everybody.
    keep_memory()
    repeats = options.repeats or (1 if options.quick else 5)
    print(describe(device, repeats), flush=True)
    with exact_arithmetic():
        ground = prepare(device)
        results = {}
        for name in chosen:
            results[name] = run(known[name], ground, device, repeats=repeats, quick=options.quick)
            print("\n" + table(results[name]), flush=True)
    demands = [] if options.quick else judge(results)
    if demands:
        print("\nDemands")
    for demand in demands:
        print(f"  {word(demand):10} {demand.text}: {demand.figure}")
    if options.output:
        options.output.write_text(json.dumps(report(device, repeats, results, demands), indent=1) + "\n")
    if options.check and any(demand.met is False for demand in demands):
        raise SystemExit(1)


def run(case: Case, ground: Ground, device: torch.device, *, repeats: int, quick: bool) -> Result:
    """Warm every way up, look at what it does, and time them all; for a `quick` look the first time is the only one."""
    case = case.shortened() if quick else case
    images, labels = case.samples(ground)
    pieces = divided(images, labels, case.piece_size)
    looked, timed_count = pieces[: case.looked_count or None], case.timed_count or len(pieces)
    ways: dict[str, Way] = {}
    findings: dict[str, Findings] = {}
    missing: dict[str, str] = {}
    account: Account | None = None
    recording_share: float | None = None
    looks: dict[str, float] = {}
    if case.full_floor:
        ways[FLOOR] = piecewise(gradient_passes(ground.frozen, int(case.settings["steps"])), pieces, timed_count)
    if has_attack(case.attack):
        ours = Ours(
            ground, images, labels, attack_name=case.attack, parameters=case.ours, norm=case.norm, device=device
        )
        account, looks[OURS] = timed(ours.watch, device)
        findings[OURS] = account.findings(to_the_end=case.to_the_end, epsilon=case.epsilon)
        if case.name == "fixed" and not quick:
            recording_share = statistics.median(ours.recording_share() for _ in range(repeats))
        if not case.full_floor:
            ways[FLOOR] = whole(evaluations(ground.frozen, images, labels, account.queries, account.gradients))
        ways[OURS] = whole(ours.run)
        if case.name == "fixed" and not quick:
            ways[JOB] = whole(ours.job)
            ours.job()
    else:
        missing[OURS] = "not there yet"
    for library, build in LIBRARIES.items():
        try:
            attack = build(ground.trained, case.attack, case.settings)
        except ImportError as error:
            missing[library] = f"not installed: {error}"
            continue
        if attack is None:
            missing[library] = f"has no {case.attack}"
            continue
        if library in case.left_out:
            missing[library] = case.left_out[library]
            continue
        steps = int(case.settings["steps"]) if case.steps_told else None
        look = partial(watch, attack, ground.trained, looked, norm=case.norm, epsilon=case.epsilon, step_count=steps)
        seed()
        findings[library], looks[library] = timed(look, device)
        ways[library] = piecewise(partial(seeded, attack), pieces, timed_count)
        if library in case.frozen_too and not quick:
            # Nothing of this is judged: it tells the speed of the attack from that of the form of the model.
            alike = build(ground.frozen, case.attack, case.settings)
            assert alike is not None
            ways[library + FROZEN] = piecewise(partial(seeded, alike), pieces, timed_count)
    if FLOOR in ways:
        _, looks[FLOOR] = timed(partial(ways[FLOOR], 0), device)
    laps = Laps({name: [looks[name]] for name in ways}) if quick else interleave(ways, repeats, device)
    return Result(case, len(images), laps, findings, account, recording_share, missing)


def seed() -> None:
    """What the other libraries draw from."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def seeded(attack: Attack, images: Tensor, labels: Tensor) -> None:
    seed()
    attack(images, labels)


def table(result: Result) -> str:
    case, laps = result.case, result.laps
    settings = ", ".join(f"{name} {value:g}" for name, value in case.settings.items())
    distance = {"inf": "∞-norm", "2": "2-norm", "0": "pixels"}[case.norm]
    lines = [f"{case.title}: {result.sample_count} samples, within {case.epsilon:g} ({distance}); {settings}"]
    columns = ("", "CPU s", "x floor", "(range)", "x ours", "failed", "mean step", "median l2", "rows")
    widths = (22, 9, 9, 16, 8, 8, 11, 11, 9)
    rows = [columns, *(_row(name, result) for name in laps.seconds)]
    lines += [
        row[0].ljust(widths[0]) + "".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return "\n".join(lines + [f"{name:22}{reason}" for name, reason in result.missing.items()])


def _row(name: str, result: Result) -> tuple[str, ...]:
    case, laps, found = result.case, result.laps, result.findings.get(name)
    floor = spread = ours = failed = step = l2 = rows = ""
    if FLOOR in laps.seconds:
        floor, spread = f"{laps.ratio(name, FLOOR):.3f}", "({:.2f}-{:.2f})".format(*laps.spread(name, FLOOR))
    if OURS in laps.seconds:
        ours = f"{laps.ratio(name, OURS):.2f}"
    if found is not None:
        failed, rows = str(int(found.failed.sum())), str(found.rows)
        if found.failed.any():
            l2 = f"{float(found.l2[found.failed].median()):.3f}"
            if found.steps is not None and case.steps_told:
                step = f"{float(found.steps[found.failed].float().mean()):.2f}"
    return name, f"{laps.median(name):.3f}", floor, spread, ours, failed, step, l2, rows


def word(demand: Demand) -> str:
    return {True: "met", False: "MISSED", None: "not judged"}[demand.met]


def describe(device: torch.device, repeats: int) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in installed().items())
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {device_name(device)}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads used, {torch.backends.cpu.get_cpu_capability()}, "
        f"Python {platform.python_version()}, {versions}; {repeats} interleaved repeats, {SLOTS} slots"
    )


def installed() -> dict[str, str]:
    versions = {}
    for name in _VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def report(device: torch.device, repeats: int, results: dict[str, Result], demands: list[Demand]) -> dict[str, Any]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(device),
        "machine": platform.machine(),
        "core_count": os.cpu_count(),
        "thread_count": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": installed(),
        "repeat_count": repeats,
        "slot_count": SLOTS,
        "cases": {
            name: {
                "sample_count": result.sample_count,
                "settings": dict(result.case.settings),
                "ours": dict(result.case.ours),
                "epsilon": result.case.epsilon,
                "norm": result.case.norm,
                "seconds": dict(result.laps.seconds),
                "failed_count": {way: int(found.failed.sum()) for way, found in result.findings.items()},
                "row_count": {way: found.rows for way, found in result.findings.items()},
                "query_count": result.account.queries if result.account else None,
                "gradient_count": result.account.gradients if result.account else None,
                "recording_share": result.recording_share,
                "missing": dict(result.missing),
            }
            for name, result in results.items()
        },
        "demands": [{"text": d.text, "figure": d.figure, "met": d.met} for d in demands],
    }


if __name__ == "__main__":
    main()
