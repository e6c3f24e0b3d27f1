"""A local endpoint that fails in every way in which one can, as a plan says for each text."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Plan = Callable[[str, int], str]
"""(text, how often it was asked before) -> what to do, by a word of `_Handler`."""


def always(action: str) -> Plan:
    return lambda text, before: action


def first(n: int, action: str) -> Plan:
    """Fail the first n requests of each text."""
    return lambda text, before: action if before < n else "ok"


def reworded(text: str) -> str:
    return f"In other words, {text[:1].lower()}{text[1:]}"


class Stub:
    """What the server was asked, and what it does; `url` is its address."""

    def __init__(self, plan: Plan, dies_after: int = 0, tokens: int = 10) -> None:
        self.plan, self.dies_after, self.tokens = plan, dies_after, tokens
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.n_now = self.most_at_once = 0
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.url = ""

    @property
    def n_asked(self) -> int:
        return self.asked.total()


@contextlib.contextmanager
def serving(plan: Plan = always("ok"), **settings: Any) -> Iterator[Stub]:  # noqa: B008
    stub = Stub(plan, **settings)

    class Handler(_Handler):
        state = stub

    server = _Server(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.released.set()
        server.shutdown()
        server.server_close()


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when the other side has gone."""


class _Handler(BaseHTTPRequestHandler):
    state: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        stub = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"].rpartition("Text: ")[2]
        with stub.lock:
            before = stub.asked[text]
            stub.asked[text] += 1
            stub.bodies.append(body)
            stub.headers.append(dict(self.headers))
            stub.times.append(time.monotonic())
            stub.n_now += 1
            stub.most_at_once = max(stub.most_at_once, stub.n_now)
            is_dead = 0 < stub.dies_after < stub.n_asked
        word, _, detail = ("close" if is_dead else stub.plan(text, before)).partition(":")
        self._is_in = True
        try:
            getattr(self, f"_{word}")(text, detail)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Count the request as ended: before the answer goes out, since the next one follows it."""
        with self.state.lock:
            self.state.n_now -= self._is_in
            self._is_in = False

    def _ok(self, text: str, detail: str) -> None:
        self._say(reworded(text), text=text)

    def _say(self, said: str | None, detail: str = "", text: str = "", end: str = "stop") -> None:
        message = {"role": "assistant", "content": said}
        found = {"choices": [{"index": 0, "message": message, "finish_reason": end}]}
        usage = {"total_tokens": self.state.tokens}
        with self.state.lock:
            self.state.answered[text] += 1
        self._send(200, json.dumps({**found, "usage": usage}).encode())

    def _slow(self, text: str, detail: str) -> None:
        time.sleep(float(detail))
        self._ok(text, "")

    def _cut(self, text: str, detail: str) -> None:
        self._say("In other", end="length")

    def _null(self, text: str, detail: str) -> None:
        self._say(None)

    def _said(self, text: str, detail: str) -> None:
        self._say(detail)

    def _http(self, text: str, detail: str) -> None:
        """`http:STATUS:Retry-After:message`, the last two may be absent."""
        status, _, rest = detail.partition(":")
        wait, _, message = rest.partition(":")
        headers = {"Retry-After": wait} if wait else {}
        if status == "302":
            headers["Location"] = "http://elsewhere.invalid/v1/chat/completions"
        self._send(int(status), json.dumps({"error": {"message": message}}).encode(), headers)

    def _echo_key(self, text: str, detail: str) -> None:
        told = f"wrong key {self.headers['Authorization']}"
        self._send(401, json.dumps({"error": {"message": told}}).encode())

    def _html(self, text: str, detail: str) -> None:
        self._send(200, b"<html>Welcome</html>", {"Content-Type": "text/html"})

    def _json_as_html(self, text: str, detail: str) -> None:
        choices = [{"message": {"content": reworded(text)}, "finish_reason": "stop"}]
        self._send(200, json.dumps({"choices": choices}).encode(), {"Content-Type": "text/html"})

    def _body(self, text: str, detail: str) -> None:
        self._send(200, detail.encode())

    def _deep(self, text: str, detail: str) -> None:
        self._send(200, b"[" * 200_000)

    def _half(self, text: str, detail: str) -> None:
        """A body that is JSON as far as it goes, and shorter than it was announced."""
        whole = b'{"choices": [{"message": {"content": "half of it"}}]}'
        self._head(200, {"Content-Length": str(len(whole) + 50)})
        self._write(whole)
        self._close("", "")

    def _half_chunk(self, text: str, detail: str) -> None:
        self._head(200, {"Transfer-Encoding": "chunked"})
        self._write(b"40\r\n{")
        self._close("", "")

    def _twice(self, text: str, detail: str) -> None:
        """The whole answer, and all of it again."""
        for _ in range(2):
            self._ok(text, "")

    def _close(self, text: str, detail: str) -> None:
        self._leave()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _hang(self, text: str, detail: str) -> None:
        self.state.released.wait(20)
        self._close("", "")

    def _drip(self, text: str, detail: str) -> None:
        """One byte at a time, always soon enough for a socket's own timeout."""
        self._head(200, {"Content-Length": "100000"})
        while not self.state.released.wait(0.02):
            if not self._write(b" "):
                return

    def _drip_head(self, text: str, detail: str) -> None:
        self._write(b"HTTP/1.1 200 OK\r\n")
        while not self.state.released.wait(0.02):
            if not self._write(b"X"):
                return

    def _no_http(self, text: str, detail: str) -> None:
        self._write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        self._close("", "")

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        length = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        self._head(status, {**length, **(headers or {})})
        self._write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self._leave()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        with contextlib.suppress(OSError):
            self.end_headers()

    def _write(self, data: bytes) -> bool:
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True
            return False
        return True
