"""The dashboard's WebSocket as a browser uses it, and as somebody could who writes a browser of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

WITHIN_S = 30.0


@contextmanager
def dashboard_socket(port: int, cookies: str = "") -> Iterator[ClientConnection]:
    """Open it with these cookies. Raises websockets' InvalidStatus where it is refused."""
    headers = {"Cookie": cookies} if cookies else {}
    address = f"ws://127.0.0.1:{port}/_stcore/stream"
    with connect(
        address, additional_headers=headers, subprotocols=[Subprotocol("streamlit")], max_size=None, open_timeout=WITHIN_S
    ) as socket:  # fmt: skip
        yield socket


def rerun(socket: ClientConnection, page: str, *widgets: WidgetState) -> None:
    """Ask for a run of `page` with these values of its widgets."""
    message = BackMsg()
    message.rerun_script.page_name = page
    message.rerun_script.widget_states.widgets.extend(widgets)
    socket.send(message.SerializeToString())


def widgets_of(socket: ClientConnection, *names: str) -> dict[str, Any]:
    """Return the elements of the page whose ids hold `names`, once each of them was there and the run has ended."""
    found: dict[str, Any] = {}
    until = time.monotonic() + WITHIN_S
    while time.monotonic() < until:
        message = ForwardMsg.FromString(socket.recv(timeout=WITHIN_S, decode=False))
        if message.WhichOneof("type") == "script_finished" and len(found) == len(names):
            return found
        if message.WhichOneof("type") != "delta" or message.delta.WhichOneof("type") != "new_element":
            continue
        element = message.delta.new_element
        kind = element.WhichOneof("type")
        identity = str(getattr(getattr(element, kind), "id", "")) if kind else ""
        found |= {name: getattr(element, kind) for name in names if name in identity}
    raise AssertionError(f"the page did not show {set(names) - set(found)}")
