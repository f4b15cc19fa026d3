"""The head of a response leaves with its body, and neither is ever late or lost."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from fallback.api.outgoing import Outgoing

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire:
    """As much of a transport as is used."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def outgoing() -> tuple[Outgoing, Wire]:
    wire = Wire()
    return Outgoing(cast("asyncio.Transport", wire), asyncio.get_running_loop()), wire


def test_head_and_body_leave_in_one_piece() -> None:
    async def run() -> None:
        out, wire = outgoing()
        out.write(HEAD)
        assert wire.sent == []
        out.write(b"body")
        assert wire.sent == [HEAD + b"body"]
        out.write(b"more")
        await asyncio.sleep(0)
        assert wire.sent == [HEAD + b"body", b"more"]

    asyncio.run(run())


def test_head_without_a_body_leaves_by_itself() -> None:
    async def run() -> None:
        out, wire = outgoing()
        out.write(HEAD)
        await asyncio.sleep(0)
        assert wire.sent == [HEAD]
        out.write(b"body")
        assert wire.sent == [HEAD, b"body"]

    asyncio.run(run())


@pytest.mark.parametrize("second", [HEAD, b""])
def test_two_heads_stay_in_order(second: bytes) -> None:
    async def run() -> None:
        out, wire = outgoing()
        out.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        out.write(second)
        await asyncio.sleep(0)
        assert b"".join(wire.sent) == b"HTTP/1.1 100 Continue\r\n\r\n" + second

    asyncio.run(run())


def test_what_waits_is_sent_before_the_end() -> None:
    async def run() -> None:
        out, wire = outgoing()
        out.write(HEAD)
        out.close()
        assert wire.sent == [HEAD]
        assert out.is_closing()
        await asyncio.sleep(0)
        assert wire.sent == [HEAD]

    asyncio.run(run())


def test_connection_that_is_lost_is_not_written_to() -> None:
    async def run() -> None:
        out, wire = outgoing()
        out.write(HEAD)
        wire.close()
        out.lose()
        assert out.is_closing()
        await asyncio.sleep(0)
        out.write(HEAD)
        out.write(b"body")
        out.close()
        assert wire.sent == []

    asyncio.run(run())
