"""The report as a page: well-formed, self-contained, and nothing in it is taken for markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from afr.survival.v1.survival_service_pb2 import CLOCK_DISTANCE, Coefficient, Effect, Estimate, Report

from cli.html.axes import Scale, log_ticks, round_ticks
from cli.html.charts import rate_figure
from cli.html.forest import forest_figure
from cli.html.page import report_page

Reports = dict[str, Callable[[], Report]]
VOID = {"meta", "link", "br", "hr", "img", "input", "col"}


class Checker(HTMLParser):
    """Collects tags and texts, and what is not properly nested."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.faults: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    return checker


def test_every_page_is_well_formed(any_report: Report) -> None:
    checker = read(report_page(any_report))
    assert checker.faults == []
    assert checker.open == []


def test_the_first_numbers_are_those_that_a_longer_attack_leaves_alone(reports: Reports) -> None:
    """The expected time grows with the budget where a share never fails, and stands among all key figures alone."""
    report = reports["good"]()
    tiles = report_page(report).split('class="tiles"')[1].split("</section>")[0]
    assert "Mean time to failure, up to 11 queries" in tiles
    assert "Expected time" not in tiles
    assert "beyond what was observed" not in tiles
    report.clock_reports[0].fits[0].median.value = 11.5
    assert "Weibull fit, beyond what was observed" in report_page(report)
    report.clock_reports[0].clock, report.distance_norm = CLOCK_DISTANCE, "inf"
    page = report_page(report)
    tiles = page.split('class="tiles"')[1].split("</section>")[0]
    assert "Median distance at failure" in tiles
    assert "time to failure" not in tiles
    assert "How far samples must be changed until the model is fooled" in page
    assert "in the norm inf, the largest change of any one value" in page
    assert "Failures by the distance at which they were found." in page


def test_no_value_beside_a_drawing_is_cut_off(reports: Reports) -> None:
    """A bold digit is under 8 units wide; the drawing is 880 wide."""
    report = reports["good"]()
    for clock in report.clock_reports:
        rate = clock.cost_normalized_failure_rate
        rate.value, rate.lower, rate.upper = 0.000268, 0.000232, 0.000309
    effect = Effect(contrast="epsilon doubled", total=Estimate(value=0.000268, lower=0.000232, upper=0.000309))
    for drawn in (rate_figure(report), forest_figure([effect])):
        wide = drawn.split('class="narrow"')[0]
        values = re.findall(r'<text x="([\d.]+)"[^>]*class="value"[^>]*>(0\.000268[^<]*)<', wide)
        assert values
        assert all(float(x) + 8 * len(text) <= 880 for x, text in values)


@pytest.mark.parametrize("rate", [1e-4, 0.3, 1.0, 4.0, 1e5])
def test_which_side_of_1_is_which_is_said_whole(reports: Reports, rate: float) -> None:
    report = reports["good"]()
    for clock in report.clock_reports:
        of = clock.cost_normalized_failure_rate
        of.value, of.lower, of.upper = rate, 0.9 * rate, 1.1 * rate
        clock.ClearField("paper_rate")
    sides = re.findall(
        r'<text x="([-\d.]+)" y="[\d.]+" class="side"( text-anchor="end")?>([^<]+)<', rate_figure(report)
    )
    assert len(sides) == 4
    for (x, end, text), width in zip(sides, (880, 880, 350, 350), strict=True):
        letters = 6.5 * len(text)
        assert float(x) - letters >= 0 if end else float(x) + letters <= width


def test_totals_of_experiments_come_with_costs_and_not_with_times_of_one_rate(reports: Reports) -> None:
    report = reports["good"]()
    report.experiment_groups.add(group="pgd", experiment_count=3)
    del report.clock_reports[0]
    page = report_page(report)
    tiles = page.split('class="tiles"')[1].split("</section>")[0]
    assert "A failure costs" in tiles
    assert "Median" not in tiles
    assert "of each experiment the total" in page
    assert "a batch is shared" not in page


def test_an_empty_report_makes_a_page() -> None:
    assert read(report_page(Report())).faults == []


def test_a_page_loads_nothing(any_report: Report) -> None:
    page = report_page(any_report)
    assert re.findall(r"(?:https?:)?//[a-z]", page) == []
    assert "url(" not in page
    assert "@import" not in page
    checker = read(page)
    assert {tag for tag, _ in checker.tags} & {"script", "img", "link", "iframe", "object", "use", "image"} == set()
    assert [key for _, attributes in checker.tags for key in attributes if key in ("src", "href", "xlink:href")] == []


def test_numbers_of_a_drawing_are_numbers(any_report: Report) -> None:
    page = report_page(any_report)
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+|[a-z]+nan", "", page.lower())
    for points in re.findall(r' d="([^"]*)"', page):
        assert re.fullmatch(r"M[-0-9. L]+Z?", points), points


def test_what_comes_from_outside_is_escaped(reports: Reports) -> None:
    report = reports["good"]()
    poison = "<script>alert('x')</script>\"&"
    report.summary = report.jobs[0].model = report.jobs[0].dataset = report.limitations[0] = poison
    report.jobs[0].attack_parameters[poison] = 1.0
    report.clock_reports[0].fits[0].status = 5
    report.clock_reports[0].fits[0].status_message = poison
    page = report_page(report)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
    assert read(page).faults == []


def test_a_dollar_sign_stays_a_dollar_sign(reports: Reports) -> None:
    report = reports["good"]()
    report.summary = "a $style of $5 and ${title}"
    assert "a $style of $5 and ${title}" in report_page(report)


def test_the_page_shows_what_the_report_says(reports: Reports) -> None:
    text = " ".join("".join(read(report_page(reports["good"]())).texts).split())
    for said in ("broken", "1.58", "[1.35, 1.85]", "7.60 queries", "Weibull, best by AIC", "150 failed", "$0.0878"):
        assert said in text, said


def test_drawings_and_tables_have_names(any_report: Report) -> None:
    tags = read(report_page(any_report)).tags
    drawings = [attributes for tag, attributes in tags if tag == "svg" and attributes.get("aria-hidden") != "true"]
    assert drawings
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in drawings)
    names = [tag for tag, _ in tags]
    assert names.count("table") == names.count("caption")
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in tags if tag == "th")


def test_without_a_failure_there_is_no_histogram_and_no_rate(reports: Reports) -> None:
    page = report_page(reports["no-failure"]())
    assert "Histogram of failures" not in page
    assert "Cost-normalised failure rates" not in page
    assert "Survival curves" in page


def test_ticks_are_round_and_within() -> None:
    assert round_ticks(11, 9) == [0, 2, 4, 6, 8, 10]
    assert round_ticks(0, 4) == [0.0]
    assert log_ticks(0.1, 10, 9) == [0.1, 0.2, 0.5, 1, 2, 5, 10]
    assert all(1e-9 <= tick <= 1e9 for tick in log_ticks(1e-9, 1e9))


def test_a_scale_keeps_what_lies_outside_on_its_edge() -> None:
    scale = Scale(0, 10, 100, 200)
    assert (scale(-5), scale(5), scale(50)) == (100, 150, 200)
    assert Scale(0.1, 10, 0, 100, logarithmic=True)(1) == pytest.approx(50)


def test_a_report_over_several_jobs_shows_what_their_settings_do(reports: Reports) -> None:
    report = reports["good"]()
    assert "Factors by which a setting" not in report_page(report)
    report.clock_reports[0].fits[0].coefficients.append(
        Coefficient(covariate="log_epsilon", time_ratio=Estimate(value=0.5, lower=0.25, upper=1))
    )
    page = report_page(report)
    assert read(page).faults == []
    assert "epsilon doubled" in page
    assert "the fitted curves are those of their average setting" in page


def test_a_vague_rate_of_clean_errors_leaves_the_axis_to_the_rates(reports: Reports) -> None:
    """One clean error has an interval over eleven decades; the others would be a dot each on an axis as long."""
    report = reports["good"]()
    report.clock_reports[1].benign_rate.CopyFrom(Estimate(value=0.5, lower=0.4, upper=0.6))
    marks = re.findall(r'class="tick"[^>]*>([^<]*)<', rate_figure(report))
    report.clock_reports[1].benign_rate.CopyFrom(Estimate(value=0.5, lower=6e-7, upper=6e4))
    drawn = rate_figure(report)
    assert marks
    assert re.findall(r'class="tick"[^>]*>([^<]*)<', drawn) == marks
