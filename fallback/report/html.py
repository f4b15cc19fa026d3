"""A report as one HTML file that needs nothing else: charts, their JavaScript and their rows are inside.

Theory of operation: the charts' specifications stand in the file twice, for a light and a dark screen, their rows once, all
of it as JSON in a block that is no program. Vega draws them with its expression interpreter, so that the file's own
Content-Security-Policy can allow the one script in it, by its hash, and nothing else: no evaluation of text, no frames, no request to
anywhere. Whatever comes from the log is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from fallback.report.content import Report
from fallback.ui.charts import ROWS, Drawn, Figure, Section, course_svg, figures, reading, section
from fallback.ui.charts.words import count, counted

__all__ = ["as_html"]

_SNIPPET = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
async function draw() {
  for (const chart of charts) {
    const spec = structuredClone(dark.matches ? chart.dark : chart.light);
    spec.data = { name: "values", values: chart.rows };
    spec.width = "container";
    spec.autosize = { type: "fit", contains: "padding" };
    spec.background = "transparent";
    spec.config.font = "system-ui, sans-serif";
    const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme: dark.matches ? "dark" : "light" } };
    await vegaEmbed("#" + chart.id, spec, options);
  }
  document.body.dataset.drawn = String(charts.length);
}
dark.addEventListener("change", draw);
draw();
"""

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #10131a; --soft: #5a6170; --line: #d9dce5; --mark: #4f46e5; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1b2130; --ink: #eef1f7; --soft: #a7b0c2; --line: #3a4359; --mark: #8f9bff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 1280px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 0; }
h3 { font-size: 1rem; margin: 1rem 0 0; }
p { margin: .35rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(clamp(140px, 17.5%, 240px), 1fr)); gap: .75rem; margin: 1.25rem 0 2rem;
  padding: 0; list-style: none; }
.figures li { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem .9rem; min-width: 0; }
.figures strong { display: block; font-size: 1.5rem; font-weight: 500; line-height: 1.3; }
.figures svg { display: block; width: 100%; height: 34px; margin-top: .5rem; color: var(--mark); }
.row { display: grid; gap: 2.25rem; margin-bottom: 2.25rem; grid-template-columns: minmax(0, 1fr); }
.panels { display: grid; gap: 1rem 2.25rem; grid-template-columns: minmax(0, 1fr); }
figure { margin: 0; min-width: 0; }
.chart { width: 100%; min-height: 120px; }
@media (min-width: 900px) {
  .row.two, .panels.two { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
}
@media print { body { max-width: none; } figure { break-inside: avoid; } }
"""


def as_html(report: Report) -> str:
    """Return the report as the text of an HTML file. Raises CacheError."""
    charts: list[dict[str, Any]] = []
    rows = "\n".join(_row(report, keys, charts) for keys in ROWS)
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    totals = report.ask("totals")
    shown = figures(totals, report.ask("totals_over_time"))
    told = ", ".join(filter(None, (_read(report), report.limits)))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{_text(report.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{_text(report.title)}</h1>
<p class="soft">{_text(told)}. The charts show the times of the clock of this browser.</p>
{_warning(report)}
<p>{_text(reading(totals))}</p>
</header>
<main>
<ul class="figures">
{"".join(_figure(figure) for figure in shown)}
</ul>
{rows}
</main>
<noscript><p>The charts need JavaScript, which is in this file; the sentences do not.</p></noscript>
<script type="application/json" id="charts">{_embedded(charts)}</script>
<script>{script}</script>
</body>
</html>
"""


def _read(report: Report) -> str:
    coverage = report.coverage
    return f"From {counted(coverage.lines, 'line')} in {counted(coverage.files, 'file')} of the usage log"


def _warning(report: Report) -> str:
    coverage = report.coverage
    damaged = (
        f"{count(coverage.damaged)} of {counted(coverage.lines, 'line')} could not be read."
        if coverage.damaged
        else ""
    )
    told = " ".join(filter(None, (damaged, coverage.warning)))
    return f'<p class="soft">{_text(told)}</p>' if told else ""


def _row(report: Report, keys: Sequence[str], charts: list[dict[str, Any]]) -> str:
    parts = "\n".join(_section(report, key, charts) for key in keys)
    return f'<div class="row{" two" if len(keys) == 2 else ""}">\n{parts}\n</div>'


def _section(report: Report, key: str, charts: list[dict[str, Any]]) -> str:
    light = section(key, report.canvas(dark=False), report.ask)
    dark = section(key, report.canvas(dark=True), report.ask)
    shown = "\n".join(_charts(light, dark, charts)) or f"<p>{_text(light.empty)}</p>"
    panels = " two" if len(light.charts) > 1 else ""
    return (
        f"<section>\n<h2>{_text(light.title)}</h2>\n"
        f'<p class="soft">{_text(light.about)}</p>\n<div class="panels{panels}">\n{shown}\n</div>\n</section>'
    )


def _charts(light: Section, dark: Section, charts: list[dict[str, Any]]) -> Iterator[str]:
    for (title, drawn), (_, on_dark) in zip(light.charts, dark.charts, strict=True):
        name = f"chart-{len(charts)}"
        rows = json.loads(drawn.frame.to_json(orient="records", date_format="iso", date_unit="ms"))
        charts.append({"id": name, "light": drawn.spec, "dark": on_dark.spec, "rows": rows})
        yield _chart(name, title, drawn)


def _chart(name: str, title: str, drawn: Drawn) -> str:
    head = f"<h3>{_text(title)}</h3>" if title else ""
    return (
        f'<figure>{head}<div class="chart" id="{name}" role="img" aria-label="{_text(drawn.alt)}"></div>'
        f"<figcaption>{_text(drawn.note)}</figcaption></figure>"
    )


def _figure(figure: Figure) -> str:
    course = course_svg(figure.points, figure.shape, 'aria-hidden="true"')
    return (
        f'<li title="{_text(figure.about)}"><span class="soft">{_text(figure.label)}</span>'
        f'<strong>{_text(figure.value)}</strong><span class="soft">{_text(figure.note)}</span>{course}</li>\n'
    )


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _embedded(value: object) -> str:
    """Return JSON that cannot end the block that it stands in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@lru_cache(maxsize=1)
def _script() -> str:
    """Return Vega, Vega-Lite and our lines as one script. It takes some seconds."""
    # Here, because the library is large and nothing else needs it.
    import vl_convert

    script: str = vl_convert.javascript_bundle(_SNIPPET, vl_version="6.4")
    if "</script" in script.lower() or "<!--" in script:
        raise AssertionError("the bundle would end the block that it stands in")
    return script
