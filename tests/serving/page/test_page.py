"""The page's files: open without a key, closed to everything else, and named in the gateway's list."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import EndpointSpec
from serving.gateway import gateway
from serving.page.page import FOLDER, Page
from tests.conftest import ROOT
from tests.serving.keys.small_app import CONTEXT, REF, Small, asking, make_key

SCRIPTS = sorted(FOLDER.glob("*.js"))


def test_it_needs_no_key_and_holds_nothing(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.sqlite")
    make_key(database)

    async def work() -> None:
        small = Small()
        app = await gateway(
            small.app, "chat", REF, EndpointSpec(model="m", access=Access(keys=True, database=database)), CONTEXT
        )
        async with asking(app) as client:
            for path in Page("chat", True, False).files:
                reply = await client.get(path)
                assert reply.status_code == 200 and reply.headers["x-content-type-options"] == "nosniff"
                policy = reply.headers["content-security-policy"]
                assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
                assert "require-trusted-types-for 'script'" in policy and "frame-ancestors 'none'" in policy
                again = await client.get(path, headers={"if-none-match": reply.headers["etag"]})
                assert (again.status_code, again.content) == (304, b"")
                assert (await client.head(path)).content == b""
                assert (await client.post(path, json={})).status_code == 405
            settings = (await client.get("/page/settings.json")).json()
            assert settings == {"endpoint": "chat", "keys": True, "feedback": False, "plugins": [], "scorer": ""}
            for path in ("/page/", "/page/page.py", "/page/__init__.py", "/page/..%2fpage/app.js", "/page//app.js",
                         "/page/app.js/", "/index.html", "/page/index.html"):  # fmt: skip
                assert (await client.get(f"http://endpoint{path}")).status_code == 404, path
        assert small.seen == []

    asyncio.run(work())


def test_it_can_be_left_out() -> None:
    async def work() -> None:
        app = await gateway(Small().app, "chat", REF, EndpointSpec(model="m", page=False), CONTEXT)
        async with asking(app) as client:
            for path in ("/", "/page/app.js", "/page/settings.json"):
                assert (await client.get(path)).status_code == 404

    asyncio.run(work())


def test_below_a_route_it_finds_its_own_files() -> None:
    app = asyncio.run(gateway(Small().app, "chat", REF, EndpointSpec(model="m"), CONTEXT))
    mounted = TestClient(Starlette(routes=[Mount("/second", app)]), follow_redirects=False)
    moved = mounted.get("/second")
    assert moved.status_code == 307 and moved.headers["location"].endswith("/second/")
    page = mounted.get("/second/")
    assert page.status_code == 200
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
        assert not name.startswith(("/", "http")), name
        assert mounted.get(f"/second/{name}").status_code == 200


def test_nothing_a_model_writes_is_parsed_as_html() -> None:
    """The policy forbids it, too; here it is known before a browser is."""
    banned = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser"
    )
    for script in SCRIPTS:
        assert not banned.search(script.read_text()), script.name
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"\son\w+=|<style|style=|<script(?![^>]* src=)", page)


def test_its_modules_are_small_and_travel_with_the_package() -> None:
    for file in FOLDER.iterdir():
        if file.is_file():
            assert len(file.read_text().splitlines()) < 300, file.name
            assert file.suffix in (".py", ".html", ".css", ".js", ".svg")
    assert '"*.svg"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_its_modules_parse(script: Path) -> None:
    node = shutil.which("node")
    if not node:
        pytest.skip("node, which parses JavaScript, is not installed")
    done = subprocess.run([node, "--input-type=module", "--check"], input=script.read_text(), text=True,
                          capture_output=True, timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
