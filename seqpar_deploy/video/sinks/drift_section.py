"""The section of the people report on drift: attributes whose probabilities have left those of the calibration set."""

from __future__ import annotations

from seqpar_deploy.calibration.drift import FIRST_LOOK, AttributeDrift, DriftReport
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import counted, percent
from seqpar_deploy.reports.page import badge, table

DRIFT_STYLE = """
#drift { margin: 18px 0 10px; }
#drift .scroll { margin: 10px 0; }
"""
_HEADS = ("attribute", "probability", "people here", "expected", "p-value", "drifted after")
_MOST_NAMES = 5  # in the line that is always visible


def drift_section(report: DriftReport) -> Html:
    """Return the section: one line that names the attributes that have drifted, and a table to open."""
    if not report.attributes:
        few = f" {counted(report.people, 'person', 'people')} so far, {FIRST_LOOK} are needed"
        return tag("p", badge("drift not known yet", None), few, id="drift")
    names = list(report.drifted)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    summary = f" of {', '.join(names[:_MOST_NAMES])}{more}" if names else ""
    people = f"{counted(report.looked_at, 'person', 'people')} with {report.reference:,} of the calibration set"
    note = (
        f"The latest comparison is of {people}, by the first crop of each track. Drift means that the probabilities of "
        "an attribute are distributed otherwise than in the calibration set. Its calibration and error rate may not "
        "hold here. Each row has the probability at which the shares of people who reach it differ most. If nothing "
        f"has drifted, the chance that this page reports any drift is at most {percent(report.false_alarm_rate)}."
    )
    order = sorted(report.attributes, key=lambda one: (not one.drifted, one.p_value, -one.distance))
    return tag(
        "details",
        tag("summary", badge("drift" if names else "no drift", not names), summary),
        tag("p", note, class_="note"),
        table(_HEADS, [_row(one) for one in order], label="drift"),
        id="drift",
    )


def _row(one: AttributeDrift) -> tuple[object, ...]:
    name = join(one.name, " ", badge("drift", False)) if one.drifted else one.name
    since = counted(one.since, "person", "people") if one.since else ""
    p_value = (
        "below 0.0001" if one.p_value < 1e-4 else f"{one.p_value:.4f}" if one.p_value < 0.1 else f"{one.p_value:.1f}"
    )
    return (
        name,
        f"\N{GREATER-THAN OR EQUAL TO} {one.edge:.2f}",
        percent(one.share),
        percent(one.expected),
        p_value,
        since,
    )
