"""One request to an endpoint that speaks OpenAI's protocol, and what a failure of it says."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from braidlm.errors import InputError

_CONNECT_SEC = 10.0
_MOST_BYTES = 8 << 20
_BUSY = (429, 503)
"""Too many requests; overloaded, or the model is still being loaded."""
_PASSING = (408, 409, 425)
_ABOUT_THE_TEXT = (400, 413, 422)


class RequestError(Exception):
    """A request that failed and may succeed when it is sent again.

    Args:
        cause: one word for counting, such as "http_500".
        told: what happened, for a sentence.
        is_down: the endpoint is at fault whatever was asked (nobody listens, too many requests).
        wait_sec: what the endpoint asks to be left alone for (its Retry-After); None if nothing.
        may_have_run: the model may have worked on it: its tokens may be used.
    """

    def __init__(
        self,
        cause: str,
        told: str,
        *,
        is_down: bool = False,
        wait_sec: float | None = None,
        may_have_run: bool = False,
    ) -> None:
        super().__init__(told)
        self.cause = cause
        self.is_down = is_down
        self.wait_sec = wait_sec
        self.may_have_run = may_have_run


class RefusedError(Exception):
    """The endpoint understood and will not answer this text, however often it is asked."""

    def __init__(self, cause: str, told: str) -> None:
        super().__init__(told)
        self.cause = cause


@dataclass(frozen=True)
class Address:
    """Where an endpoint is.

    Args:
        scheme: http or https.
        host: a name or an address.
        port: None is the scheme's own.
        path: what goes before "/chat/completions".
    """

    scheme: str
    host: str
    port: int | None
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read "http://127.0.0.1:8000/v1"; without a path it is /v1.

        Raises:
            InputError: no http address, or one that carries a secret.
        """
        allowed = "allowed is http://HOST:PORT/v1 or https://HOST/v1"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise InputError(f"url '{url}' is no address: {allowed}") from None
        if parts.username is not None or parts.password is not None or parts.query:
            # Neither is repeated here: it would be written where it is read by others.
            raise InputError(
                "url: a name, a password or a query has no place in it, since it is written into "
                f"the manifest; the key is read from the environment (key_env); {allowed}"
            )
        is_plain = re.fullmatch(r"[\x21-\x7e]+", url) is not None
        if parts.scheme not in ("http", "https") or not host or parts.fragment or not is_plain:
            raise InputError(f"url '{url}' is no address of an endpoint: {allowed}")
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        return cls(parts.scheme, host, port, path or "/v1")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


class Endpoint:
    """Sends requests, each over a connection of its own; any number of threads may use it.

    No proxy is used and no redirection followed, so that the key goes to this host alone.

    Args:
        address: where it is.
        key: sent as a bearer token; "" sends none. It appears in no message.

    Raises:
        InputError: a key that no header can carry.
    """

    def __init__(self, address: Address, key: str = "") -> None:
        if not re.fullmatch(r"[\x21-\x7e]*", key):
            raise InputError("the endpoint's key must be visible ASCII characters without spaces")
        self.address = address
        self._key = key
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def post(self, path: str, body: dict[str, Any], timeout_sec: float) -> dict[str, Any]:
        """Send JSON and return the JSON object that is answered.

        Args:
            path: after the address, such as "/chat/completions".
            body: what is sent.
            timeout_sec: for the whole of it, from connecting to the last byte.

        Raises:
            RequestError: it may be asked again.
            RefusedError: this text is refused.
            InputError: the endpoint refuses whatever is asked (key, path, redirection).
        """
        end = time.monotonic() + timeout_sec
        connection = self._connect(timeout_sec)
        try:
            with self._watched(connection.sock, end) as late:
                try:
                    status, headers, data = self._exchange(connection, path, body)
                except (OSError, http.client.HTTPException) as error:
                    if late.is_set():
                        raise _too_late(timeout_sec) from None
                    raise RequestError(
                        "connection_lost",
                        f"it ended the connection ({_name(error)})",
                        may_have_run=True,
                    ) from None
                if late.is_set():  # what came before is cut, even where it looks whole
                    raise _too_late(timeout_sec)
        finally:
            connection.close()
        if status != 200:
            raise self._failure(status, headers, data)
        return self._object(headers, data)

    def abort(self) -> None:
        """End the requests under way; each raises a `RequestError` in its thread."""
        with self._lock:
            for sock in self._open:
                _shut(sock)

    def _connect(self, timeout_sec: float) -> http.client.HTTPConnection:
        at, limit = self.address, min(timeout_sec, _CONNECT_SEC)
        if at.scheme == "https":
            connection = http.client.HTTPSConnection(
                at.host, at.port, timeout=limit, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(at.host, at.port, timeout=limit)
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise InputError(
                f"{at}: its certificate is not valid ({error.verify_message})"
            ) from None
        except (OSError, UnicodeError) as error:
            connection.close()
            told = f"it cannot be reached ({_name(error)})"
            raise RequestError("unreachable", told, is_down=True) from None
        return connection

    def _exchange(
        self, connection: http.client.HTTPConnection, path: str, body: dict[str, Any]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps(body, ensure_ascii=True).encode()
        connection.request("POST", self.address.path + path, data, headers)
        response = connection.getresponse()
        read = response.read(_MOST_BYTES)
        if response.length:  # `read(n)` says nothing of a body that is shorter than announced
            raise http.client.IncompleteRead(read, response.length)
        return response.status, response.headers, read

    @contextlib.contextmanager
    def _watched(self, sock: socket.socket, end: float) -> Iterator[threading.Event]:
        """Shut `sock` at time `end`, whatever drips out of it; the event says that it was so."""
        late = threading.Event()

        def shut() -> None:
            late.set()
            _shut(sock)

        timer = threading.Timer(max(end - time.monotonic(), 0), shut)
        timer.daemon = True
        sock.settimeout(None)
        with self._lock:
            self._open.add(sock)
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()
            with self._lock:
                self._open.discard(sock)

    def _failure(self, status: int, headers: http.client.HTTPMessage, data: bytes) -> Exception:
        said = self._said(data)
        told = f"it answered HTTP {status}" + (f": {said}" if said else "")
        if status in _ABOUT_THE_TEXT:
            is_long = status == 413 or "context" in said.lower()
            return RefusedError("too_long" if is_long else "refused", told)
        if status in _BUSY:
            wait = retry_after_sec(headers.get("Retry-After"))
            return RequestError(f"http_{status}", told, is_down=True, wait_sec=wait)
        if status in _PASSING or status >= 500:
            return RequestError(f"http_{status}", told, may_have_run=True)
        if 300 <= status < 400:
            told += f", which sends elsewhere ({self._shown(headers.get('Location') or '?')})"
        hint = "; see key_env" if status in (401, 403) else ""
        return InputError(f"{self.address}: {told}{hint}")

    def _object(self, headers: http.client.HTTPMessage, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            kind = self._shown(headers.get("Content-Type") or "no type")
            told = f"its answer is no JSON object but {len(data)} bytes of {kind}"
            raise RequestError("not_json", told, may_have_run=True)
        return found

    def _said(self, data: bytes) -> str:
        """Return the message of an error's body, or its beginning."""
        try:
            found = json.loads(data)
            error = found.get("error", found)
            said = error if isinstance(error, str) else error["message"]
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            said = data[:1000].decode("utf-8", "replace")
        return self._shown(str(said))

    def _shown(self, text: str) -> str:
        """Return foreign words fit for a sentence: short, one line, and never with the key."""
        text = text.replace(self._key, "***") if self._key else text
        text = "".join(c if c.isprintable() else " " for c in text)
        return " ".join(text.split())[:200]


def retry_after_sec(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header (a number or a date) asks for, None if none."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d*)?\s*", value):
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
    return max(at - time.time(), 0.0)


def _too_late(timeout_sec: float) -> RequestError:
    return RequestError("timeout", f"no whole answer within {timeout_sec:.3g} s", may_have_run=True)


def _name(error: Exception) -> str:
    told = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return (told or type(error).__name__)[:200]


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        sock.shutdown(socket.SHUT_RDWR)
