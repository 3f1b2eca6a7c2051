"""A parity report as a page, with the verdict first: does the bundle reproduce its checkpoint?"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from seqpar_deploy.reports.machine import bundle_facts, machine_facts
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import NONE, counted, known, number, percent
from seqpar_deploy.reports.page import badge, facts, page, section, table, tiles

_PICTURE = 320  # largest side in pixels: twice the size on the page, for screens with a high resolution
_SHOWN = 100  # divergences with their pictures
_PASSED = {"failed": False, "skipped": None, "passed": True}  # the badge of each status
_MEASURED = {"log_prob_median": "median", "log_prob_p99": "99th percentile", "log_prob_max": "largest"}


def parity_page(
    report: Mapping[str, Any], crops: Mapping[int, npt.NDArray[np.uint8]], bundle: Mapping[str, Any]
) -> str:
    """A parity report (`ParityReport.to_dict()`) as HTML.

    Args:
        report: The parity report. Any part of it may be missing.
        crops: Raw pictures, uint8 (h, w, 3), by crop index. The page shows those of the divergences.
        bundle: `name`, `digest`, `precision` and `machine` (the output of `describe_machine`), all optional.
    """
    passed = bool(report.get("passed"))
    name = str(bundle.get("name") or "this bundle")
    reference = {"golden data": "its golden data"}.get(str(report.get("reference")), "its checkpoint")
    verdict = f"{name} {'reproduces' if passed else 'does not reproduce'} {reference}"
    body = join(
        tag("p", "Parity", class_="kind"),
        tag("h1", verdict),
        tag("p", badge("passed" if passed else "failed", passed), " ", _summary(report, bundle)),
        _breaches(report),
        tiles(_tiles(report)),
        _checks(report),
        _tolerances(report),
        _divergences(report, crops),
        _scores(report),
        _about(bundle),
    )
    return page(verdict, body)


def _summary(report: Mapping[str, Any], bundle: Mapping[str, Any]) -> str:
    on = [f"on {report['backend']}"] if report.get("backend") else []
    kinds = report.get("kinds") or {}
    mixed = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    count = report.get("crops")
    crops = counted(count, "crop") if isinstance(count, int) else f"{NONE} crops"
    crops += f" ({mixed})" if mixed else ""
    precision = [str(bundle["precision"])] if bundle.get("precision") else []
    return ", ".join([*on, *precision, crops])


def _breaches(report: Mapping[str, Any]) -> Html | None:
    breaches = report.get("breaches") or ()
    return tag("ul", *(tag("li", breach) for breach in breaches), class_="breaches") if breaches else None


def _tiles(report: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    crops, ties = report.get("crops"), report.get("ties")

    def share(key: str) -> str | None:
        count = report.get(key)
        return percent(count / crops) if known(count) and known(crops) and crops else None

    def count(key: str) -> str:
        return f"{report.get(key, NONE)} of {report.get('crops', NONE)}"

    return [
        ("identical sequences", count("identical"), share("identical")),
        ("identical attribute sets", count("identical_sets"), share("identical_sets")),
        ("ties", NONE if ties is None else ties, "divergences below the tie margin"),
        ("largest difference", number(report.get("log_prob_max")), "in log-probability"),
        *_probability_tile(report),
    ]


def _probability_tile(report: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """Return no tile for older reports, which did not compare probabilities."""
    most = report.get("probability_max")
    return [("largest difference", number(most), "in an attribute's probability")] if known(most) else []


def _checks(report: Mapping[str, Any]) -> Html | None:
    checks = sorted(report.get("checks") or (), key=lambda check: list(_PASSED).index(_status(check)))  # failures first
    if not checks:
        return None
    rows = (
        (check.get("name"), badge(_status(check), _PASSED[_status(check)]), check.get("detail") or "")
        for check in checks
    )
    counts = {status: sum(_status(check) == status for check in checks) for status in _PASSED}
    failed, skipped = counts["failed"], counts["skipped"]
    passed = "passed" if len(checks) == 1 else f"all {counts['passed']} passed"
    heading = f"Checks: {failed} of {len(checks)} failed" if failed else f"Checks: {passed}"
    heading += f", {skipped} skipped" if skipped else ""
    return section(heading, table(("check", "", "detail"), rows, label="Checks", words=(0, 1, 2)))


def _status(check: Mapping[str, Any]) -> str:
    """Reports of bundle format 1 have `passed` in place of `status`."""
    status = str(check.get("status") or ("passed" if check.get("passed") else "failed"))
    return status if status in _PASSED else "failed"


def _tolerances(report: Mapping[str, Any]) -> Html:
    """Measured and allowed differences, then the other settings of the check."""
    allowed = dict(report.get("tolerances") or {})
    rows = []
    for key, words in _MEASURED.items():
        got, most = report.get(key), allowed.pop(key, None)
        compared = isinstance(got, (int, float)) and known(most)
        held = badge(*(("within", True) if got <= most else ("exceeded", False))) if compared else ""
        rows.append((words, held, _setting(got), _setting(most)))
    heads = ("difference", "", "measured", "allowed")
    others = ", ".join(f"{key.replace('_', ' ')} {_setting(value)}" for key, value in allowed.items())
    return section(
        "Tolerances of log-probabilities",
        table(heads, rows, label="Tolerances", words=(0, 1)),
        tag("p", f"Settings: {others}.", class_="note") if others else None,
    )


def _setting(value: object) -> str:
    return NONE if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _divergences(report: Mapping[str, Any], crops: Mapping[int, npt.NDArray[np.uint8]]) -> Html | None:
    """Divergences that are not ties first, the largest margins first."""
    found = sorted(report.get("divergences") or (), key=lambda d: (bool(d.get("tie")), -_margin(d)))
    if not found:
        return None
    more = len(found) - _SHOWN
    return section(
        f"Diverging sequences: {counted(len(found), 'crop')}",
        tag("p", "The margin is the lead of the reference's token over its second choice, in log-probability."),
        *(_case(divergence, crops.get(divergence.get("crop"))) for divergence in found[:_SHOWN]),
        tag("p", f"The JSON file lists {counted(more, 'more crop')}.", class_="note") if more > 0 else None,
    )


def _margin(divergence: Mapping[str, Any]) -> float:
    margin = divergence.get("margin")
    return float(margin) if known(margin) else float("inf")


def _case(divergence: Mapping[str, Any], crop: npt.NDArray[np.uint8] | None) -> Html:
    wanted, got = (list(divergence.get(f"{side}_attributes") or ()) for side in ("wanted", "got"))
    index, step = divergence.get("crop", NONE), divergence.get("step", NONE)
    name = divergence.get("name") or f"crop {index}"
    same = set(wanted) == set(got)
    words = facts(
        [
            (
                "diverges at",
                f"step {step}: expected token {divergence.get('wanted', NONE)}, got {divergence.get('got', NONE)}",
            ),
            ("margin", _setting(divergence.get("margin"))),
            ("reference", _chips(wanted, got)),
            ("bundle", _chips(got, wanted)),
            ("", "same attributes in another order" if same and wanted else None),
        ]
    )
    verdict = badge("tie", None) if divergence.get("tie") else badge("not a tie", False)
    heading = tag("h3", name, " ", verdict)
    return tag("div", _picture(crop, str(name)), tag("div", heading, words), class_="case")


def _chips(these: Sequence[object], those: Sequence[object]) -> Html:
    """Attributes; those that the other side lacks are highlighted."""
    if not these:
        return tag("span", "no attributes", class_="note")
    chips = (tag("span", one, class_="chip" if one in those else "chip differs") for one in these)
    return join(*chips)


def _picture(crop: npt.NDArray[np.uint8] | None, name: str) -> Html:
    if crop is None or crop.size == 0:
        return tag("div", "no picture", class_="nothing note")
    image = Image.fromarray(crop)
    image.thumbnail((_PICTURE, _PICTURE))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = crop.shape[:2]
    return tag("img", src=f"data:image/png;base64,{data}", alt=name, title=f"{width} x {height} pixels")


def _scores(report: Mapping[str, Any]) -> Html | None:
    scores = report.get("scores")
    if not scores:
        return None
    wanted, got = scores.get("wanted") or {}, scores.get("got") or {}
    rows = []
    for key in wanted:
        before, after = wanted[key], got.get(key)
        change = f"{100 * (after - before):+.2f}" if known(before) and known(after) else NONE
        rows.append((key, _score(before), _score(after), change))
    heads = ("score, %", "checkpoint", "bundle", "change")
    people = scores.get("people")
    title = (
        f"Scores on {counted(people, 'labelled person', 'labelled people')}" if isinstance(people, int) else "Scores"
    )
    return section(title, table(heads, rows, label="Scores"))


def _score(value: Any) -> str:
    return f"{100 * value:.2f}" if known(value) else NONE


def _about(bundle: Mapping[str, Any]) -> Html:
    return section("Bundle and machine", facts([*bundle_facts(bundle), *machine_facts(bundle.get("machine"))]))
