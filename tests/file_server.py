"""A web server on loopback for a folder: index pages, ETags and ranges, as nginx has them, and misbehaviour on request."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

Manner = Literal["serve", "refuse", "whole", "hang", "cut"]


class FileServer:
    """What it was asked, and how it answers."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.manner: Manner = "serve"
        self.sent_bytes = 0
        """Of bodies of files."""
        self.refuse_after_bytes: int | None = None
        """Of bodies of files; None: it goes on."""
        self.over = threading.Event()
        self.hung = threading.Event()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    files: FileServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        files = self.server.files
        if files.manner == "hang":
            files.hung.set()
            files.over.wait(60)
            self.close_connection = True
            return
        path = files.folder / unquote(self.path.partition("?")[0]).strip("/")
        enough = files.refuse_after_bytes is not None and files.sent_bytes >= files.refuse_after_bytes
        if files.manner == "refuse" or (enough and self.command == "GET"):
            self._answer(403, b"")
        elif path.is_dir():
            names = sorted(each.name + "/" * each.is_dir() for each in path.iterdir())
            page = "".join(f'<a href="{name}">{name}</a>\n' for name in names)
            self._answer(200, page.encode(), content_type="text/html")
        elif path.is_file():
            self._file(path.read_bytes())
        else:
            self._answer(404, b"")

    def _file(self, content: bytes) -> None:
        files = self.server.files
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        wanted = self.headers.get("range")
        if wanted is None or files.manner == "whole":
            self._answer(200, content, etag=etag)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1]
        if self.command == "GET":
            files.sent_bytes += len(part)
        if files.manner == "cut":
            self.send_response(206)
            self.send_header("content-length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            return
        self._answer(206, part, etag=etag)

    def _answer(self, status: int, body: bytes, *, etag: str = "", content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", content_type)
        if etag:
            self.send_header("etag", etag)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """Serve `folder` on loopback."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.files = made = FileServer(folder, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        made.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
