"""Plug-ins as people see them: `ctl chat` and the page, before a small application that writes what a model would."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.plugins import Plugins
from serving.gateway import gateway
from serving.plugins.running import open_plugins
from tests.cli.command import CTL, ctl
from tests.serving.keys.small_app import REF
from tests.serving.page.browser import Browser
from tests.serving.plugins.test_loop import Script, calls
from tests.serving.running import running_made

SPEC = Plugins(allowed=("calculator", "solver"))


@contextmanager
def served(script: Script) -> Iterator[str]:
    """Its address."""

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "chat", "object": "model", "max_model_len": 1000}]})

    async def make() -> Any:
        script.app.router.routes.append(Route("/v1/models", models))
        plugins, spec = await open_plugins(SPEC, ""), EndpointSpec(model="m", plugins=SPEC)
        return await gateway(script.app, "chat", REF, spec, 1000, plugins=plugins, calls="native")

    with running_made(make, lambda app: app.plugins.close()) as url:
        yield url


@pytest.mark.heavy
def test_chat_in_the_terminal_shows_them() -> None:
    script = Script(calls("calculator", expression="3*4"), "It is 12.")
    with served(script) as url:
        chat = ["chat", "--endpoint", url, "--plugin", "calculator"]
        child = pexpect.spawn(str(CTL), chat, encoding="utf-8", timeout=120)
        child.expect("you>")
        child.sendline("What is 3 times 4?")
        child.expect_exact('calculator {"expression": "3*4"}')
        child.expect_exact(" -> 12")
        child.expect("It is 12.")
        child.expect("you>")
        child.sendline("stop")
        child.expect(pexpect.EOF)
    assert [tool["function"]["name"] for tool in script.asked[0]["tools"]] == ["calculator"]
    refused = ctl("chat", "--model", "m", "--plugin", "calculator")
    assert refused.returncode == 2 and "Give --endpoint" in refused.stderr


@pytest.mark.heavy
def test_the_page_switches_them_on_and_shows_them(browser: Browser, tmp_path: Path) -> None:
    wrong = calls("calculator", expression="three")
    script = Script("Without.", calls("calculator", expression="3*4"), wrong, "It is **12**.", "Again.")
    with served(script) as url:
        browser.open(url)
        browser.until("document.title === 'chat'")
        browser.errors.clear()
        send(browser, "What is 3 times 4?")
        browser.until("document.querySelector('.turn:last-child .body')?.innerText === 'Without.'")
        browser.until("!document.querySelector('#send').hidden")
        assert "tools" not in script.asked[0]
        if not browser.js("document.querySelector('#plugins').checkVisibility()"):
            browser.click("#show-settings")
        browser.click("#plugins label", "calculator")
        send(browser, "And with a calculator?")
        browser.until("document.querySelector('.turn:last-child .body')?.innerText === 'It is 12.'")
        browser.until("!document.querySelector('#send').hidden")
        assert [tool["function"]["name"] for tool in script.asked[1]["tools"]] == ["calculator"]
        shown = browser.js("[...document.querySelectorAll('.plugin summary')].map((each) => each.innerText)")
        assert [re.sub(r"\s+", " ", each).split(" s")[0].rsplit(" ", 1)[0] for each in shown] == [
            "calculator 3*4", "calculator three failed ·",
        ]  # fmt: skip
        browser.click(".plugin summary", "3*4")
        browser.until("document.querySelector('.plugin[open] pre').innerText === '12'")
        browser.picture(tmp_path / "plugins.png")
        browser.open(url)  # what was switched on stays so, and what was shown
        browser.until("document.querySelectorAll('.plugin').length === 2")
        browser.until("document.querySelector('#plugins input')?.checked")  # they are asked for apart
        send(browser, "Once more")
        browser.until("document.querySelector('.turn:last-child .body')?.innerText === 'Again.'")
        assert [each for each in browser.errors if "/-/routes" not in each] == []  # which Serve's proxy has


def send(browser: Browser, text: str) -> None:
    browser.type("#draft", text)
    browser.press("Enter")
