"""The Analytics page: what failover did, from usage.log.

Theory of operation: the controls (`filters`) stand in the address; with the time they make a window and filters, for which the
analytics give small frames (`frames`, kept for whoever asks for the same), and `fallback.ui.charts` makes charts and sentences
of them. A live page reads the log on every ten seconds, in two fragments: figures and charts, and the table of requests. A click
on a chart (`picks`) narrows the table. Whatever a provider or the log says is shown letter for letter.
"""

from fallback.ui.analytics.page import show_analytics

__all__ = ["show_analytics"]
