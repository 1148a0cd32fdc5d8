"""The report of a check: one self-contained HTML page under 500 kB, and a short markdown.

It shows shares per cell, thresholds, gates and strata; no feature value and no category by name.
"""

from __future__ import annotations

from html import escape

from secmon_dagster.drift.compare import FeatureDrift
from secmon_dagster.drift.levels import Thresholds
from secmon_dagster.drift.results import DriftReport
from secmon_dagster.drift.vocabulary import AlertLevel

LARGEST_PAGE = 500_000
# Rows of the table and pictures; the worst come first, so what is cut off is the least drifted.
_ROWS = 500
_PICTURES = 120
_BARS = 24
_IN_MARKDOWN = 10

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;
color:#1b1f24;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}
th,td{padding:.3rem .6rem;border-bottom:1px solid #d8dee4;text-align:right;
font-variant-numeric:tabular-nums}
th:first-child,td:first-child,td.w{text-align:left}
.CRITICAL{color:#b42318;font-weight:600}.WARNING{color:#8a5a00;font-weight:600}
.NORMAL{color:#1a7f37}.none{color:#57606a}
figure{display:inline-block;margin:.6rem}figcaption{font-size:12px;max-width:250px;
overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.r{fill:#8c959f}.c{fill:#2f6fde}small{color:#57606a}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}
th,td{border-color:#30363d}.c{fill:#6ea8fe}.CRITICAL{color:#ff7b72}.WARNING{color:#e3b341}
.NORMAL{color:#56d364}}
"""


def html_page(
    report: DriftReport, *, model_id: str, version: str, check_id: str, moment: str,
    thresholds: Thresholds,
) -> str:  # fmt: skip
    """The page; UTF-8, no script, nothing loaded from elsewhere."""
    ranked = report.ranked()
    title = f"Drift of {model_id} {version}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<style>{_STYLE}</style><h1>{escape(title)}: {_level(report.level)}</h1>",
        f"<p>Check <code>{escape(check_id)}</code> of {escape(moment)}: {report.rows} rows against "
        f"a baseline of {report.baseline_rows} (hash <code>{report.baseline_hash[:16]}</code>).",
        f"<p>{escape(report.reason)}" if report.reason else "",
        f"<p><small>PSI definition psi-v1. WARNING from {thresholds.psi_warning:g}, CRITICAL from "
        f"{thresholds.psi_critical:g}, both only above the gate: what samples of these sizes reach "
        "by chance. Missing share: "
        f"{thresholds.missing_warning:g} and {thresholds.missing_critical:g}.</small>",
        _feature_table(ranked),
        _pictures(ranked),
        _other_metrics(report),
    ]
    return "".join(parts)


def _level(level: AlertLevel | None) -> str:
    if level is None:
        return '<span class="none">not enough data</span>'
    return f'<span class="{level}">{level}</span>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _feature_table(ranked: list[FeatureDrift]) -> str:
    head = (
        "<h2>Features, worst first</h2><table><tr><th>feature<th>level<th>PSI<th>gate<th>JS<th>KS"
        "<th>W1 (scaled)<th>Cramér's V<th>p<th>q<th>missing before<th>now<th>unseen<th>note"
    )
    rows = [
        f"<tr><td>{escape(each.feature)}<td>{_level(each.level)}"
        + "".join(
            f"<td>{_number(value)}"
            for value in (
                each.psi, each.psi_gate, each.js, each.ks, each.wasserstein_scaled, each.cramers_v,
                each.p_value, each.q_value, each.missing_reference, each.missing_current,
                each.unseen_share,
            )
        )
        + f'<td class="w">{escape(each.reason or "")}'
        for each in ranked[:_ROWS]
    ]  # fmt: skip
    left = len(ranked) - len(rows)
    return head + "".join(rows) + "</table>" + (f"<p>{left} more, less drifted." if left else "")


def _pictures(ranked: list[FeatureDrift]) -> str:
    drawn = [each for each in ranked if each.cells_reference][:_PICTURES]
    if not drawn:
        return ""
    return (
        "<h2>Share of rows per cell</h2><p><small>Grey: baseline. Blue: current window. Cells are "
        "the baseline's deciles, or its categories, new ones last.</small></p>"
        + "".join(_picture(each) for each in drawn)
    )


def _picture(feature: FeatureDrift) -> str:
    reference, current = _bars(feature)
    tallest = max(*reference, *current, 1e-9)
    width = 240 / len(reference)
    bars = []
    for index, (before, now) in enumerate(zip(reference, current, strict=True)):
        for share, offset, colour in ((before, 0.08, "r"), (now, 0.5, "c")):
            height = 70 * share / tallest
            bars.append(
                f'<rect class="{colour}" x="{width * (index + offset):.1f}" '
                f'y="{72 - height:.1f}" width="{width * 0.4:.1f}" height="{height:.1f}"/>'
            )
    return (
        f'<figure><svg width="240" height="74" role="img" aria-label="{escape(feature.feature)}">'
        f"{''.join(bars)}</svg><figcaption>{escape(feature.feature)} "
        f"{_number(feature.psi)}</figcaption></figure>"
    )


def _bars(feature: FeatureDrift) -> tuple[list[float], list[float]]:
    """Shares per cell; of many categories the largest, the others as one bar."""
    cells = list(zip(feature.cells_reference, feature.cells_current, strict=True))
    if len(cells) > _BARS:
        cells.sort(key=lambda pair: -sum(pair))
        rest = [sum(column) for column in zip(*cells[_BARS - 1 :], strict=True)]
        cells = [*cells[: _BARS - 1], (rest[0], rest[1])]
    totals = [max(1, sum(pair[side] for pair in cells)) for side in (0, 1)]
    return (
        [before / totals[0] for before, _ in cells],
        [now / totals[1] for _, now in cells],
    )


def _other_metrics(report: DriftReport) -> str:
    others = [
        *report.performance,
        *(each.as_metric() for each in report.bias),
        *(each.as_metric() for each in report.safety),
    ][:_ROWS]
    if not others:
        return ""
    rows = [
        f"<tr><td>{escape(each.name)}<td>{each.drift_type}<td>{_level(each.level)}"
        f"<td>{_number(each.value)}<td>{_interval(each.details)}"
        f'<td class="w">{escape(each.reason or "")}'
        for each in others
    ]
    return (
        "<h2>Performance, bias, safety</h2><table><tr><th>metric<th>about<th>level<th>value"
        "<th>95 %<th>note" + "".join(rows) + "</table>"
    )


def _interval(details: dict[str, object]) -> str:
    low, high = details.get("low"), details.get("high")
    if isinstance(low, float) and isinstance(high, float):
        return f"{low:.3f} to {high:.3f}"
    return "–"


def markdown(report: DriftReport, *, model_id: str, version: str) -> str:
    """A few lines for the asset page: the verdict and the worst ten features."""
    lines = [
        f"**{model_id} {version}: {report.overall_status}**, {report.rows} rows against "
        f"{report.baseline_rows}"
    ]
    if report.reason:
        lines.append(f"\n{report.reason}")
    lines += ["", "| feature | level | PSI | gate | missing |", "|---|---|---|---|---|"]
    lines += [
        f"| {each.feature} | {each.level or 'not enough data'} | {_number(each.psi)} | "
        f"{_number(each.psi_gate)} | {_number(each.missing_current)} |"
        for each in report.ranked()[:_IN_MARKDOWN]
    ]
    return "\n".join(lines)
