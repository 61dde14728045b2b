"""The diagnostics of `afrctl fit`: whether the fits fit, as a compact block and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Diagnostics, FitOutcomesResponse


def diagnostics_blocks(fitted: FitOutcomesResponse) -> list[str]:
    """Whether the fits fit, and whether the effects are those of an accelerated failure model, a few lines each."""
    from cli.quantities import number
    from cli.rendering import paragraph, terminal_columns
    from cli.sections.assumptions import COLUMNS as CHECKED
    from cli.sections.assumptions import rows as checked_rows
    from cli.sections.goodness import (
        NESTING_COLUMNS,
        PREDICTION_COLUMNS,
        VALIDATION_COLUMNS,
        nesting_rows,
        prediction_rows,
        probability,
        untested_residuals,
        validation_rows,
    )
    from cli.tables import table

    of, columns = fitted.diagnostics, terminal_columns()
    finding = paragraph(of.fit_finding, columns)
    if not of.distributions:
        return [finding]
    header = [f"shares at {number(of.calibration_time)}", *PREDICTION_COLUMNS[1:], "residuals p"]
    tests = [probability(one.residual_p_value) if one.HasField("residual_p_value") else "–" for one in of.distributions]
    predicted = [[*row, test] for row, test in zip(prediction_rows(of), tests, strict=True)]
    reasons = [paragraph(sentence, columns, "", "  ") for sentence in untested_residuals(of)]
    blocks = ["\n".join([finding, table(header, predicted, right=range(1, len(header))), *reasons])]
    if nested := nesting_rows(of):
        blocks.append(table(NESTING_COLUMNS, nested, right=(1, 2)))
    if validated := validation_rows(of):
        shown = table(VALIDATION_COLUMNS, validated, right=(1, 2, 3))
        caption = paragraph(f"Predicted for samples not seen: {of.cross_validation.finding}", columns)
        blocks.append(f"{caption}\n{shown}")
    if of.assumption_checks:
        shown = table(CHECKED, checked_rows(of), right=range(1, len(CHECKED)))
        caption = paragraph(f"One factor for early and late failures? {of.assumption_finding}", columns)
        why = dict.fromkeys(check.finding for check in of.assumption_checks if not check.HasField("p_value"))
        reasons = [paragraph(f"{sentence}.", columns, "", "  ") for sentence in why]
        blocks.append("\n".join([caption, shown, *reasons]))
    return blocks


def diagnostics_object(fitted: FitOutcomesResponse) -> dict[str, Any] | None:
    """The diagnostics under the names of the contract, null where a number could not be computed; null without any."""
    from google.protobuf.json_format import MessageToDict

    if not fitted.HasField("diagnostics"):
        return None
    of: Diagnostics = fitted.diagnostics
    content: dict[str, Any] = MessageToDict(
        of, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    worded: dict[str, Any] = _worded(content)
    return worded


def _worded(content: Any) -> Any:
    """Enum values as `afrctl fit` writes them elsewhere: `log-normal` for DISTRIBUTION_LOG_NORMAL."""
    if isinstance(content, dict):
        return {name: _worded(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_worded(value) for value in content]
    if isinstance(content, str) and content.startswith("DISTRIBUTION_"):
        word = content.removeprefix("DISTRIBUTION_").lower().replace("_", "-")
        return None if word == "unspecified" else word
    return content
