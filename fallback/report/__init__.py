"""What failover did, on paper: the figures of the Analytics page in a terminal, as JSON, and as one HTML file.

Theory of operation: a `Report` is one window of one log, seen through filters; `text`, `json` and `html` write it down. Figures,
charts and sentences are those of the page (`fallback.ui.charts`).

What may not live here: Streamlit, and arguments of the command line.
"""

from fallback.report.content import Report, as_json
from fallback.report.html import as_html
from fallback.report.text import Line, as_text

__all__ = ["Line", "Report", "as_html", "as_json", "as_text"]
