"""The charts of the Analytics page and of the report: from small frames to Vega-Lite, and what each says in words.

What may not live here: Streamlit.
"""

from fallback.ui.charts.consumption import cost_chart, tokens_chart
from fallback.ui.charts.course import COURSE_COLOR, course_svg
from fallback.ui.charts.drawn import PICK, Canvas, Drawn
from fallback.ui.charts.failovers import failovers_chart, pairs_chart
from fallback.ui.charts.figures import Figure, figures, reading
from fallback.ui.charts.health import availability_chart, failures_chart, states_chart
from fallback.ui.charts.latency import distribution_chart, latency_charts
from fallback.ui.charts.sections import FIGURES, ROWS, Section, section
from fallback.ui.charts.waterfall import attempts_chart

__all__ = [
    "COURSE_COLOR",
    "FIGURES",
    "PICK",
    "ROWS",
    "Canvas",
    "Drawn",
    "Figure",
    "Section",
    "attempts_chart",
    "availability_chart",
    "cost_chart",
    "course_svg",
    "distribution_chart",
    "failovers_chart",
    "failures_chart",
    "figures",
    "latency_charts",
    "pairs_chart",
    "reading",
    "section",
    "states_chart",
    "tokens_chart",
]
