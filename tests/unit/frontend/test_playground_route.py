"""The playground's files over HTTP. A browser opens them in tests/openai/test_playground.py."""

from __future__ import annotations

import re

import pytest

from openai_frontend.endpoints.playground import FOLDER, PATHS
from tests.unit.frontend.fake_triton import FakeTriton

OUTSIDE = re.compile(r"""(?:https?:)?//[\w.-]+\.\w+|@import|\burl\(|innerHTML|outerHTML|\beval\(""")


@pytest.fixture
def client(make_client):
    return make_client(FakeTriton())


async def test_the_page_and_all_files_it_names_are_served(client):
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:src|href)="(playground/[\w.]+)"', page.text)
    scripts = [name for name in named if name.endswith(".js")]
    for name in scripts:
        source = (await client.get(f"/{name}")).text
        named += [f"playground/{file}" for file in re.findall(r'from "\./([\w.]+)"', source)]
    assert len(set(named)) > 5
    for name in named:
        reply = await client.get(f"/{name}")
        assert reply.status_code == 200, name
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        assert reply.headers["content-type"] == f"{kind}; charset=utf-8"


@pytest.mark.parametrize("path", PATHS)
async def test_every_file_forbids_what_the_page_does_not_need(client, path):
    headers = (await client.get(path)).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PATHS)
async def test_a_browser_keeps_files_but_asks_whether_they_are_current(client, path):
    reply = await client.get(path)
    assert reply.headers["cache-control"] == "no-cache"
    etag = reply.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = await client.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    assert (await client.get(path, headers={"if-none-match": '"other"'})).status_code == 200


async def test_the_page_knows_the_servers_body_limit(make_client):
    page = (await make_client(FakeTriton(), max_body_bytes=12345).get("/")).text
    assert 'data-max-body-bytes="12345"' in page
    assert "{" + "max_body_bytes}" not in page


async def test_the_page_needs_no_key_but_the_models_do(make_client):
    client = make_client(FakeTriton(), api_keys=("secret",))
    for path in PATHS:
        assert (await client.get(path)).status_code == 200
    assert (await client.get("/v1/models")).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/playground",
        "/playground/",
        "/playground/index.html",
        "/playground/../app.py",
        "/playground/%2e%2e/app.py",
        "/playground/nothing.js",
    ],
)
async def test_no_other_path_leads_to_a_file(client, path):
    assert (await client.get(path)).status_code == 404


async def test_the_page_is_read_only(client):
    assert (await client.post("/")).status_code == 405
    head = await client.head("/")
    assert (head.status_code, head.content) == (200, b"")


def test_every_word_is_there_in_english_and_in_chinese():
    source = (FOLDER / "labels.js").read_text("utf-8")
    tables = re.findall(r"const (?:ENGLISH|CHINESE) = \{\n(.*?)\n\};", source, re.S)
    english, chinese = (dict(re.findall(r"^  (\w+):\s+(.+),$", table, re.M)) for table in tables)
    assert list(english) == list(chinese)
    for key, words in english.items():
        values = re.compile(r"\{(\w+)\}")
        assert sorted(values.findall(words)) == sorted(values.findall(chinese[key])), key
    used = set()
    for file in FOLDER.iterdir():
        text = file.read_text("utf-8")
        used |= set(re.findall(r'data-label(?:-name|-placeholder)?="(\w+)"', text))
        used |= set(re.findall(r'\blabel\("(\w+)"', text))
    assert used <= set(english)


def test_no_file_names_another_host_or_makes_markup_of_text():
    for file in FOLDER.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert OUTSIDE.search(text) is None, file.name
