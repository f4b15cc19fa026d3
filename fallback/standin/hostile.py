"""Faults of the bytes rather than of what they say: sizes, speeds, encodings."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, repeat

from fallback.standin.faults import LONGEST_SILENCE_S, Fault
from fallback.standin.rendered import event_script
from fallback.standin.steps import (
    Close,
    Exchange,
    Piece,
    Send,
    Step,
    Wait,
    ending,
    events,
    framed,
    good,
    plain,
    streamed,
    words,
)
from fallback.standin.wire import LAST_CHUNK

_BLOCK = b"x" * 65536
_BLOCKS_PER_MIB = 16


def trickle(fault: Fault, exchange: Exchange) -> Iterator[Step]:
    """Answer one byte at a time."""
    wait = Wait(1.0 if fault.interval_s is None else fault.interval_s)
    if fault.part == "body" and exchange.streaming:
        yield from streamed(exchange, _pieces(events(exchange), 1, wait))
        return
    body = exchange.plain_body()
    start = exchange.good_head(streaming=exchange.streaming, length=None if exchange.streaming else len(body))
    if fault.part == "body":
        yield Send(start)
        yield from _bytewise(body, wait)
        return
    yield from _bytewise(start, wait)
    if exchange.streaming:
        yield from framed(events(exchange))
        yield Send(LAST_CHUNK)
    else:
        yield Send(body)


def _bytewise(data: bytes, wait: Wait) -> Iterator[Step]:
    for index in range(len(data)):
        yield Send(data[index : index + 1])
        yield wait


def split(fault: Fault, exchange: Exchange) -> Iterator[Step]:
    """Answer in small pieces."""
    wait = Wait(fault.interval_s or 0.0)
    if exchange.streaming:
        return streamed(exchange, _pieces(events(exchange), fault.split_bytes, wait))
    body = exchange.plain_body()
    start = Send(exchange.good_head(streaming=False, length=None))
    return chain([start], framed(_pieces([body], fault.split_bytes, wait)), [Send(LAST_CHUNK)])


def _pieces(source: Iterable[Piece], size: int, wait: Wait) -> Iterator[Piece]:
    for piece in source:
        if isinstance(piece, Wait):
            yield piece
            continue
        for start in range(0, len(piece), size):
            yield piece[start : start + size]
            yield wait


def huge_body(fault: Fault, exchange: Exchange) -> Iterator[Step]:
    """Answer with very much text."""
    blocks = (64 if fault.mib is None else fault.mib) * _BLOCKS_PER_MIB
    if exchange.streaming:
        word = event_script(
            exchange.dialect, replace(exchange.answer, tokens=(_BLOCK.decode(),), tool_calls=())
        )
        pieces = repeat(exchange.fill(word.deltas[0]), blocks)
        return streamed(exchange, chain([exchange.fill(word.opening)], pieces, ending(exchange)))
    mark = b"STANDIN-HUGE"
    short = exchange.plain_body(replace(exchange.answer, tokens=(mark.decode(),), tool_calls=()))
    before, _, after = short.partition(mark)
    start = Send(exchange.good_head(streaming=False, length=None))
    return chain([start], framed(chain([before], repeat(_BLOCK, blocks), [after])), [Send(LAST_CHUNK)])


def endless_line(fault: Fault, exchange: Exchange) -> Iterator[Step]:
    """Send a line that does not end."""
    blocks = repeat(_BLOCK, (1024 if fault.mib is None else fault.mib) * _BLOCKS_PER_MIB)
    start = b"data: " if exchange.streaming else b'{"id":"'
    yield Send(exchange.good_head(streaming=exchange.streaming, length=None))
    yield from framed(chain([start], blocks))
    yield Close()


def keepalives(fault: Fault, exchange: Exchange) -> Iterator[Step]:
    """Send signs of life, and the answer after them or never."""
    wait = Wait(1.0 if fault.interval_s is None else fault.interval_s)
    count = fault.count
    # Without a pause "for ever" would be a flood; it is bounded like every other silence.
    endless = int(LONGEST_SILENCE_S / max(wait.seconds, 0.001))
    mark = b": OPENROUTER PROCESSING\n\n" if exchange.streaming else b"\n"
    beats: Iterator[Piece] = chain.from_iterable(repeat((mark, wait), endless if count is None else count))
    begun = fault.after_words if exchange.streaming else 0
    yield Send(exchange.good_head(streaming=exchange.streaming, length=None))
    if begun:
        yield from framed(words(exchange, stop=begun))
    yield from framed(beats)
    if count is None:
        yield Close()
        return
    if exchange.streaming:
        yield from framed(words(exchange, start=begun, with_opening=not begun))
        yield from framed(ending(exchange))
    else:
        yield from framed([exchange.plain_body()])
    yield Send(LAST_CHUNK)


def zipped(_: Fault, exchange: Exchange) -> Iterator[Step]:
    """Answer well, compressed."""
    encoded = (("content-encoding", "gzip"),)
    if exchange.streaming:
        return streamed(exchange, _compressed(events(exchange)), extra=encoded)
    return plain(exchange, gzip.compress(exchange.plain_body()), extra=encoded)


def _compressed(pieces: Iterable[Piece]) -> Iterator[Piece]:
    packer = zlib.compressobj(wbits=31)
    for piece in pieces:
        if isinstance(piece, Wait):
            yield piece
        elif piece:
            yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()


def bad_gzip(_: Fault, exchange: Exchange) -> Iterator[Step]:
    """Call garbage compressed."""
    encoded = (("content-encoding", "gzip"),)
    garbage = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03" + b"\xff not deflate at all " * 20
    if exchange.streaming:
        return streamed(exchange, [garbage], extra=encoded)
    return plain(exchange, garbage, extra=encoded)


def crlf(_: Fault, exchange: Exchange) -> Iterator[Step]:
    """End lines with CR LF."""
    if not exchange.streaming:
        return good(exchange)
    pieces = events(exchange)
    return streamed(exchange, (p if isinstance(p, Wait) else p.replace(b"\n", b"\r\n") for p in pieces))
