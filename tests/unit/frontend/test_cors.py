"""Web pages of other origins: nothing without the flag, with it what the flag says."""

from __future__ import annotations

import pytest

from backend.errors import ConfigError
from openai_frontend.launch.parsing import parse_options
from openai_frontend.service import CorsSettings
from tests.unit.frontend.fake_triton import FakeTriton, finish

CHAT = "/v1/chat/completions"
PAGE = "https://chat.example.org"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


def cors_headers(reply):
    return {name for name in reply.headers if name.startswith("access-control-")}


async def test_without_the_flag_a_page_gets_nothing(make_client, chat_body):
    client = make_client(FakeTriton([finish()]))
    reply = await client.post(CHAT, json=chat_body, headers={"origin": PAGE})
    assert reply.status_code == 200
    assert cors_headers(reply) == set()
    assert (await client.options(CHAT, headers=PREFLIGHT)).status_code == 405


@pytest.mark.parametrize("origins", [("*",), (PAGE, "http://localhost:3000")])
async def test_a_named_page_may_ask_and_read(make_client, chat_body, origins):
    client = make_client(FakeTriton([finish("yes")]), cors=CorsSettings(origins))
    preflight = await client.options(CHAT, headers=PREFLIGHT)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] in ("*", PAGE)
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in preflight.headers
    reply = await client.post(CHAT, json=chat_body, headers={"origin": PAGE})
    assert reply.json()["choices"][0]["message"]["content"] == "yes"
    assert reply.headers["access-control-allow-origin"] in ("*", PAGE)
    assert "x-request-id" in reply.headers["access-control-expose-headers"]


async def test_other_pages_are_not_let_in(make_client, chat_body):
    client = make_client(FakeTriton([finish()]), cors=CorsSettings((PAGE,)))
    for origin in ("https://evil.example", PAGE + ".evil.example", "null"):
        assert (await client.options(CHAT, headers={**PREFLIGHT, "origin": origin})).is_error
        reply = await client.post(CHAT, json=chat_body, headers={"origin": origin})
        assert "access-control-allow-origin" not in reply.headers


async def test_methods_headers_and_credentials_are_as_told(make_client):
    cors = CorsSettings((PAGE,), methods=("GET",), headers=("x-one",), credentials=True)
    client = make_client(FakeTriton(), cors=cors)
    assert (await client.options(CHAT, headers=PREFLIGHT)).status_code == 400
    asked = {"access-control-request-method": "GET", "access-control-request-headers": "x-one"}
    reply = await client.options("/v1/models", headers={**PREFLIGHT, **asked})
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-credentials"] == "true"
    asked["access-control-request-headers"] = "x-two"
    assert (await client.options("/v1/models", headers={**PREFLIGHT, **asked})).is_error


async def test_a_preflight_needs_no_key_and_a_refusal_can_be_read(make_client, chat_body):
    client = make_client(FakeTriton([finish()]), api_keys=("k",), cors=CorsSettings((PAGE,)))
    assert (await client.options(CHAT, headers=PREFLIGHT)).status_code == 200
    reply = await client.post(CHAT, json=chat_body, headers={"origin": PAGE})
    assert reply.status_code == 401
    assert reply.headers["access-control-allow-origin"] == PAGE
    reply = await client.post(CHAT, json={}, headers={"origin": PAGE, "authorization": "Bearer k"})
    assert reply.status_code == 400
    assert reply.headers["access-control-allow-origin"] == PAGE


async def test_a_stream_carries_the_headers(make_client, chat_body):
    client = make_client(FakeTriton([finish("x")]), cors=CorsSettings(("*",)))
    body = {**chat_body, "stream": True}
    reply = await client.post(CHAT, json=body, headers={"origin": PAGE})
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("arguments", "origins"),
    [
        ([], ()),
        (["--allowed-origins", '["*"]'], ("*",)),
        (["--allowed-origins", "http://a,https://b:1"], ("http://a", "https://b:1")),
        (["--allowed-origins", "http://a", "--allowed-origins=http://b"], ("http://a", "http://b")),
    ],
)
def test_origins_are_read_in_every_spelling(arguments, origins):
    options = parse_options(arguments, {})
    assert options.allowed_origins == origins
    assert options.allowed_methods == options.allowed_headers == ("*",)


def test_the_other_lists_and_the_switch_are_read():
    options = parse_options(
        [
            *("--allowed-origins", PAGE, "--allow-credentials"),
            *("--allowed-methods", '["GET", "POST"]', "--allowed-headers", "authorization"),
        ],
        {},
    )
    assert options.allowed_methods == ("GET", "POST")
    assert options.allowed_headers == ("authorization",)
    assert options.allow_credentials


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--allowed-origins", "chat.example.org"], "no origin"),
        (["--allowed-origins", "https://a/path"], "no origin"),
        (["--allowed-origins", "https://*.a"], "no origin"),
        (["--allowed-origins", "[1]"], "no list"),
        (["--allowed-origins", "["], "not JSON"),
        (["--allowed-methods", "GET POST"], "no name"),
        (["--allowed-origins", "*", "--allow-credentials"], "name the origins"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_starts(arguments, words):
    with pytest.raises(ConfigError, match=words):
        parse_options(arguments, {})
