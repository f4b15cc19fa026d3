"""A history that never happened: days of traffic through the real router, written as its usage log in seconds.

Theory of operation: a request of the history is a real `loop.Exchange` over the real roster, switchboard, encoders,
decoders and usage log. What is made up is the world around it: who asks what and when (`callers`), what befalls the
providers and what people do about it (`incidents`), what a provider sends back and after how long (`replies`), and the
time (`simulation`), which jumps from one event to the next. So the lines cannot contradict each other or the format, and
whatever the program learns to write, the history has as well. Everything is drawn from one seed: the same seed, span,
traffic and configuration give the same bytes.

What may not live here: the form of a line or a file (`usage_log`), and any rule about what a failure leads to (`core`).
"""

from fallback.demo.history.span import Span
from fallback.demo.history.writing import write_history

__all__ = ["Span", "write_history"]
