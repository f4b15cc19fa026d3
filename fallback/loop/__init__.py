"""The course of one request, as a generator that a driver obeys.

Theory of operation: a course yields what has to be done and is sent what came of it:

    Send(request, ...)   -> Head, or the TransportError that came instead
    Read(limit_s)        -> bytes (b"" at the end), or a TransportError
    Close()              -> None
    Sleep(seconds)       -> None
    Probe(permit)        -> None; a small call that nobody waits for is to be begun beside this one
    Aside(work)          -> what the work returns; it may wait for a disk or a server, and keeps no event loop waiting
    any Event            -> None; it is for the caller

An `Exchange` is the course of a request: it ends by returning after `Finished`, or by raising a NoAnswerError. A
`ProbeCourse` is that of a probe, and ends without a word. A driver is the thirty lines that carry this out, once with and
once without `await`; all else is here, once. Closing the generator (the caller went away) settles the permit and writes
the log, as every other end does.

`call` is one call of one candidate, `delivery` what the caller has got so far across all attempts, `ending` the words and
exceptions for a request without an answer.

What may not live here: connections and threads (transport), what a failure leads to (core).
"""

from fallback.loop.commands import Aside, Close, Command, Probe, Read, RoutingContext, Send, Sleep, Turn
from fallback.loop.exchange import Exchange
from fallback.loop.probe import ProbeCourse
from fallback.loop.states import change_lines

__all__ = [
    "Aside",
    "Close",
    "Command",
    "Exchange",
    "Probe",
    "ProbeCourse",
    "Read",
    "RoutingContext",
    "Send",
    "Sleep",
    "Turn",
    "change_lines",
]
