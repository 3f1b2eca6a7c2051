"""The comparison of two bundles as a page: agreement per attribute, and the crops that changed most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.reports.machine import bundle_facts, machine_facts
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import counted, number, percent, times
from seqpar_deploy.reports.page import facts, page, section, table, tiles
from seqpar_deploy.reports.thumbnail import thumbnail

Change = tuple[str, npt.NDArray[np.uint8], Mapping[str, tuple[str, str, float, float]]]
"""Name, picture and, by attribute, old state, new state, old probability and new probability."""


def compare_page(
    result: Mapping[str, Any],
    changes: Sequence[Change],
    bundles: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any],
) -> str:
    """A comparison of two bundles as HTML.

    Args:
        result: `BundleComparison.to_dict()`, and `old_rate` and `new_rate` in crops per second.
        changes: The crops that changed most. Each has the attributes that changed, those with another state first.
        bundles: The old and the new bundle: `name`, `digest`, `precision` and `backend`.
        machine: The output of `describe_machine`.
    """
    old, new = (str(bundle["name"]) for bundle in bundles)
    title = f"{new} compared with {old}"
    crops = result["crops"]
    body = join(
        tag("p", "Comparison of bundles", class_="kind"),
        tag("h1", title),
        tiles(
            [
                (
                    "states that agree",
                    f"{100 * result['agreement']:.2f}\N{NO-BREAK SPACE}%",
                    f"on {counted(crops, 'crop')}",
                ),
                ("crops with another state", f"{result['states_differ']:,}", percent(result["states_differ"] / crops)),
                ("other sequences", f"{result['sequences_differ']:,}", percent(result["sequences_differ"] / crops)),
                ("speed", times(result["new_rate"] / result["old_rate"]), f"{number(result['new_rate'])} crops/s"),
            ]
        ),
        _attributes(result["attributes"]),
        _changes(changes),
        *(section(heading, facts(bundle_facts(each))) for heading, each in zip(("Old", "New"), bundles, strict=True)),
        section("Machine", facts(machine_facts(machine))),
    )
    return page(title, body)


def _attributes(attributes: Sequence[Mapping[str, Any]]) -> Html:
    """The attributes, those that agree least first."""
    ordered = sorted(attributes, key=lambda one: (one["agreement"], -one["mean_change"]))
    rows = (
        (
            one["name"],
            f"{one['agreement']:.4f}",
            one["old_yes"],
            one["new_yes"],
            f"{one['mean_change']:.4f}",
            f"{one['largest_change']:.4f}",
        )
        for one in ordered
    )
    heads = ("attribute", "agreement", "old: yes", "new: yes", "mean change", "largest change")
    note = "Agreement is the share of crops with the same state. Changes are absolute differences of the probability."
    return section("Attributes", table(heads, rows, label="Attributes"), tag("p", note, class_="note"))


def _changes(changes: Sequence[Change]) -> Html | None:
    if not changes:
        return None
    return section("Crops that changed most", *(_case(*change) for change in changes))


def _case(name: str, crop: npt.NDArray[np.uint8], attributes: Mapping[str, tuple[str, str, float, float]]) -> Html:
    lines = (
        (
            attribute,
            tag(
                "span",
                f"{old} {before:.2f} \N{RIGHTWARDS ARROW} {new} {after:.2f}",
                class_="chip differs" if old != new else "chip",
            ),
        )
        for attribute, (old, new, before, after) in attributes.items()
    )
    return tag("div", thumbnail(crop, name), tag("div", tag("h3", name), facts(lines)), class_="case")
