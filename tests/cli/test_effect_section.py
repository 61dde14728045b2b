"""The split of effects as a person reads it: a table, the reasons for what is missing, a drawing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from afr.survival.v1 import survival_service_pb2 as pb

from cli.html.page import report_page
from cli.rendering import render
from cli.sections.effects import effects

Reports = dict[str, Callable[[], pb.Report]]


def estimate(value: float, spread: float) -> pb.Estimate:
    return pb.Estimate(value=value, lower=value * math.exp(-1.96 * spread), upper=value * math.exp(1.96 * spread))


@pytest.fixture
def split(reports: Reports) -> pb.Report:
    """A deeper model that is slower and no more robust, from one seed; and a defence with three seeds."""
    report = reports["good"]()
    report.effect_report.CopyFrom(
        pb.EffectReport(
            distribution=pb.DISTRIBUTION_WEIBULL,
            image_count=240,
            model_count=7,
            finding="152 layers instead of 18: only latency is shown to change.",
            notes=["3 samples without a query or a measured time are not in the seconds per query."],
            effects=[
                pb.Effect(
                    covariate="model_depth", contrast="152 layers instead of 18", step=134,
                    status=pb.Effect.STATUS_TOO_FEW_MODELS, status_message="too few trained models: train more",
                    total=estimate(3.1, 0.05), queries=estimate(1.02, 0.04), seconds_per_query=estimate(3.04, 0.03),
                    free=estimate(3.3, 0.06), gap=estimate(0.94, 0.03), model_level=True, cluster_count=240,
                    degrees_of_freedom=239, p_value=0.6,
                ),
                pb.Effect(
                    covariate="defence=jpeg (against none)", contrast="defence jpeg instead of none", step=1,
                    status=pb.Effect.STATUS_OK, queries=estimate(1.5, 0.1), model_level=True, cluster_count=6,
                    degrees_of_freedom=4, p_value=0.0002, adjusted_p_value=0.0004,
                ),
            ],
        )
    )  # fmt: skip
    return report


def test_each_effect_is_a_row_of_its_parts(split: pb.Report) -> None:
    section = effects(split)
    assert section is not None
    assert section.answer == split.effect_report.finding
    depth, defence = section.tables[0].rows
    assert depth[0] == "152 layers instead of 18"
    assert [cell.partition(" ")[0] for cell in depth[1:6]] == ["3.10", "1.02", "3.04", "3.30", "0.940"]
    assert depth[6] == "240 images"  # not the models, of which there are too few
    assert (defence[1], defence[6]) == ("–", "6 models")
    assert section.tables[1].rows == (("defence jpeg instead of none", defence[2], "< 0.001", "< 0.001"),)
    assert section.notes[0] == "152 layers instead of 18: too few trained models: train more."


def test_terminal_and_page_show_the_split(split: pb.Report) -> None:
    page = report_page(split)
    for shown in (page, render(split, width=200, full=True)):
        assert "obustness or latency" in shown
        assert "152 layers instead of 18" in shown
        assert "3 samples without a query" in shown
    assert 'aria-label="Effects on the time to failure.' in page


def test_a_report_of_one_job_has_no_split(reports: Reports) -> None:
    assert effects(reports["good"]()) is None


def test_a_distance_has_a_norm_and_neither_costs_nor_a_conclusion(split: pb.Report) -> None:
    of = split.clock_reports.add()
    of.CopyFrom(split.clock_reports[0])
    for name in (
        "cost_per_failure",
        "cost_normalized_failure_rate",
        "paper_rate",
        "conclusion",
        "confidence_above_one",
    ):
        of.ClearField(name)
    of.clock, of.training_cost_per_sample, of.attack_cost = pb.CLOCK_DISTANCE, 0.0, 0.0
    split.distance_norm = "2"
    page, text = report_page(split), render(split, width=200, full=True)
    assert "in the norm 2, Euclidean length, of images" in page
    assert "length of the change to the sample" in page
    for shown in (page, text):
        assert "clocks disagree" not in shown
        assert "on the distance clock" in shown
