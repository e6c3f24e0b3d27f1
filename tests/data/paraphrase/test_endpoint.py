"""One request: what each failure is called, who is to blame, and that no time limit is passed."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from typing import Any

import pytest

from braidlm.data.paraphrase.endpoint import (
    Address,
    Endpoint,
    RefusedError,
    RequestError,
    retry_after_sec,
)
from braidlm.errors import InputError

from .stub import always, closed_port, serving

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Text: one"}], "max_tokens": 9}


def post(url: str, timeout_sec: float = 5.0, key: str = "") -> dict[str, Any]:
    return Endpoint(Address.parse(url), key).post("/chat/completions", BODY, timeout_sec)


class TestAddress:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
            ("https://h.example/api/v2/", "https://h.example/api/v2"),
            ("http://h.example/v1/chat/completions", "http://h.example/v1"),
            ("http://[::1]:80/v1", "http://[::1]:80/v1"),
        ],
    )
    def test_it_is_read_and_written(self, url, expected):
        assert str(Address.parse(url)) == expected
        assert Address.parse(expected) == Address.parse(url)

    @pytest.mark.parametrize(
        "url", ["", "h:80", "ftp://h/v1", "http://", "http://h:x/", "http://h/v1#a", "http://h/a b"]
    )
    def test_what_is_none_is_refused(self, url):
        with pytest.raises(InputError, match="allowed is http://HOST:PORT/v1"):
            Address.parse(url)

    @pytest.mark.parametrize("url", ["http://me:hush@h/v1", "https://h/v1?key=hush"])
    def test_a_secret_in_it_is_refused_and_not_repeated(self, url):
        with pytest.raises(InputError) as caught:
            Address.parse(url)
        assert "hush" not in str(caught.value)


FAILURES = [
    ("http:500::kaput", "http_500", "HTTP 500: kaput"),
    ("http:502", "http_502", "HTTP 502"),
    ("http:408", "http_408", "HTTP 408"),
    ("html", "not_json", "20 bytes of text/html"),
    ("body:{", "not_json", "no JSON object"),
    ("body:[1]", "not_json", "no JSON object"),
    ("body:", "not_json", "0 bytes"),
    ("deep", "not_json", "no JSON object"),
    ("half", "connection_lost", "ended the connection"),
    ("half_chunk", "connection_lost", "ended the connection"),
    ("close", "connection_lost", "ended the connection"),
    ("no_http", "connection_lost", "ended the connection"),
]


@pytest.mark.parametrize(("action", "cause", "told"), FAILURES)
def test_a_failure_has_a_name_and_a_sentence(action, cause, told):
    with serving(always(action)) as stub, pytest.raises(RequestError, match=told) as caught:
        post(stub.url)
    assert caught.value.cause == cause
    assert not caught.value.is_down
    assert caught.value.may_have_run


def test_nobody_listens():
    with pytest.raises(RequestError, match="cannot be reached") as caught:
        post(f"http://127.0.0.1:{closed_port()}/v1")
    assert caught.value.is_down
    assert not caught.value.may_have_run


@pytest.mark.parametrize("status", ["429", "503"])
def test_a_busy_endpoint_is_to_blame_and_may_say_how_long(status):
    plan = always(f"http:{status}:7:slow down")
    with serving(plan) as stub, pytest.raises(RequestError, match="slow down") as caught:
        post(stub.url)
    assert caught.value.is_down
    assert caught.value.wait_sec == 7


@pytest.mark.parametrize(
    ("action", "cause"),
    [
        ("http:400::bad words", "refused"),
        ("http:400::exceeds the context length", "too_long"),
        ("http:413", "too_long"),
        ("http:422", "refused"),
    ],
)
def test_a_refusal_is_about_the_text(action, cause):
    with serving(always(action)) as stub, pytest.raises(RefusedError) as caught:
        post(stub.url)
    assert caught.value.cause == cause


@pytest.mark.parametrize("status", ["401", "403", "404", "302"])
def test_what_concerns_every_request_is_for_the_user(status):
    with serving(always(f"http:{status}")) as stub, pytest.raises(InputError) as caught:
        post(stub.url, key="k")
    assert f"HTTP {status}" in str(caught.value)
    assert ("elsewhere.invalid" in str(caught.value)) == (status == "302")  # told, not followed
    assert ("key_env" in str(caught.value)) == (status in ("401", "403"))


@pytest.mark.parametrize("action", ["hang", "drip", "drip_head", "slow:3"])
def test_no_endpoint_takes_longer_than_it_may(action):
    start = time.monotonic()
    with serving(always(action)) as stub, pytest.raises(RequestError) as caught:
        post(stub.url, timeout_sec=0.3)
    assert caught.value.cause == "timeout"
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("action", ["ok", "twice", "json_as_html"])
def test_the_body_decides_whatever_is_said_of_it_or_follows_it(action):
    with serving(always(action)) as stub:
        assert post(stub.url)["choices"][0]["message"]["content"] == "In other words, one"


def test_the_key_is_sent_and_said_nowhere_else():
    with serving(always("echo_key")) as stub, pytest.raises(InputError) as caught:
        post(stub.url, key="sk-hush")
    assert stub.headers[0]["Authorization"] == "Bearer sk-hush"
    assert "wrong key Bearer ***" in str(caught.value)
    with serving() as stub:
        post(stub.url)
        assert "Authorization" not in stub.headers[0]
    with pytest.raises(InputError, match="visible ASCII") as caught:
        Endpoint(Address.parse("http://h/v1"), "hush\nX-Other: 1")
    assert "hush" not in str(caught.value)


def test_an_abort_ends_what_is_under_way():
    with serving(always("hang")) as stub:
        endpoint = Endpoint(Address.parse(stub.url))
        threading.Timer(0.2, endpoint.abort).start()
        start = time.monotonic()
        with pytest.raises(RequestError):
            endpoint.post("/chat/completions", BODY, 15)
        assert time.monotonic() - start < 5


def test_half_a_character_can_be_asked_about():
    with serving(always("said:fine")) as stub:
        body = {**BODY, "messages": [{"role": "user", "content": "Text: \ud800"}]}
        Endpoint(Address.parse(stub.url)).post("/chat/completions", body, 5)
        assert json.dumps(stub.bodies[0]["messages"][0]["content"]) == '"Text: \\ud800"'


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ("3", 3.0), (" 1.5 ", 1.5), ("soon", None), ("-4", None), ("9" * 40, None)],
)
def test_retry_after_in_seconds(value, expected):
    assert retry_after_sec(value) == expected


def test_retry_after_as_a_date():
    found = retry_after_sec(email.utils.formatdate(time.time() + 60, usegmt=True))
    assert found is not None
    assert 57 < found <= 60
    assert retry_after_sec("Sun, 06 Nov 1994 08:49:37 GMT") == 0
