"""The page in a real browser, before a small application whose answers are known: streams, models side by side, what
hostile texts do, keys, consent, and a phone."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from cluster.core.feedback import Line, answers, read
from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import EndpointSpec, Limits
from cluster.core.specs.feedback import Feedback
from cluster.core.storage.location import Location
from serving.admission import Admission
from serving.asgi import Application
from serving.gateway import Gateway, gateway
from serving.named import APPLICATION, Models, Named
from serving.sharing import Sharing
from serving.split import Ask
from tests.serving.keys.small_app import make_key
from tests.serving.page.browser import Browser

REF, OTHER, JUDGE = "sft/tiny-0123456789ab", "dpo/tiny-ba9876543210", "reward/tiny-cafe98765432"
HOSTILE = """# A <b>title</b>

<img src=x onerror="window.hurt = 1"><script>window.hurt = 1</script>

[a link](javascript:window.hurt=1) and [another](https://example.org/a?b=<c>), <https://example.org>

```html"><script>window.hurt = 1</script>
<script>window.hurt = 1</script>
```

| a | <svg onload=window.hurt=1> |
|---|---|
| **b** | `c` |
"""


class Model:
    """Answers with what its user asks for, word by word, or with a text of its own."""

    def __init__(self, name: str) -> None:
        self.name, self.asked = name, list[dict[str, Any]]()
        self.go = asyncio.Event()
        self.go.set()
        routes = [Route("/v1/models", self.models), Route("/v1/chat/completions", self.chat, methods=["POST"])]
        self.app = Starlette(routes=routes)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.name, "max_model_len": 1000}]})

    async def chat(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append(asked)
        said = asked["messages"][-1]["content"]
        if said == "fail":
            return JSONResponse({"error": {"message": "the text does not fit"}}, 400)
        text = HOSTILE if said == "hostile" else f"{self.name} says: {said}"
        return StreamingResponse(self.stream(text, said == "break"), media_type="text/event-stream")

    async def stream(self, text: str, breaks: bool) -> AsyncIterator[str]:
        for number, piece in enumerate(text.split(" ")):
            if number == 2:
                await self.go.wait()
            delta = {"content": piece if number == 0 else f" {piece}"}
            yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': None}]})}\n\n"
        if breaks:
            return
        yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'stop'}]})}\n\n"
        usage = {"prompt_tokens": 3, "completion_tokens": len(text.split(" ")), "total_tokens": 9}
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"


class Site:
    """Two endpoints behind one port, as Serve has them, in a thread of their own. `judge`: a third, which scores what
    the page of the first shows; where it is `beside`, it is one of the first's own models instead."""

    def __init__(self, folder: Path, keys: str = "", judge: Application | None = None, beside: bool = False) -> None:
        self.first, self.second = Model("first"), Model("second")
        self.judge, self.beside = judge, beside
        self.place = folder / "said"
        self.keys = keys
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve()))

    async def serve(self) -> None:
        access = Access(keys=bool(self.keys), database=self.keys)
        kept, scorer = Feedback(path=str(self.place)), "judge" if self.judge else ""
        spec = EndpointSpec(model="m", access=access, feedback=kept, scorer=scorer)
        own = Models(self.first.app, self.first.app, "first", lambda application: _passed(self.judge))
        first = await gateway(own, "first", REF, spec, 1000, models=own)
        second = await gateway(self.second.app, "second", OTHER, spec, 1000)
        others = {"/second": second}
        if self.judge and self.beside:
            own.set_models([Named(name="judge", ref=JUDGE, place=APPLICATION, store="s", kind="k", fingerprint="f")])
        elif self.judge:
            alone = EndpointSpec(model="m", access=access, page=False)
            others["/judge"] = await gateway(self.judge, "judge", JUDGE, alone, 64)

        async def routes(request: Request) -> Response:
            return JSONResponse({"/": "first", **{path: path[1:] for path in others}})

        mounts = [Mount(path, app) for path, app in others.items()]
        app = Starlette(routes=[Route("/-/routes", routes), *mounts, Mount("/", first)])
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            self.loop = asyncio.get_running_loop()
            self.ready.set()
            await self.server.serve([listener])
        for guarded in (first, *others.values()):
            if guarded.guard:  # type: ignore[attr-defined]
                await guarded.guard.close()  # type: ignore[attr-defined]

    def said(self) -> list[Any]:
        lines = [line for _, line in read(Location(self.place)) if isinstance(line, Line)]
        return [line.said for line in sorted(lines, key=lambda line: line.at)]


def _passed(app: Application | None) -> Ask:
    """What asks the replica of another model, without Serve between them."""
    sharing = Sharing()
    assert app is not None
    sharing._passed = Gateway(app, JUDGE, Limits(), None, Admission(8, 8))
    return sharing.pass_on


@contextmanager
def site(folder: Path, keys: str = "", judge: Application | None = None, beside: bool = False) -> Iterator[Site]:
    found = Site(folder, keys, judge, beside)
    found.thread.start()
    found.ready.wait(60)
    try:
        yield found
    finally:
        found.server.should_exit = True
        found.thread.join()


def ask(browser: Browser, text: str) -> None:
    before = browser.js("document.querySelectorAll('.turn').length")
    browser.type("#draft", text)
    browser.press("Enter")
    browser.until(f"document.querySelectorAll('.turn').length === {before + 1}")


def until_text(browser: Browser, selector: str, text: str) -> None:
    browser.until(f"document.querySelector({json.dumps(selector)}).innerText.includes({json.dumps(text)})")


def done(browser: Browser) -> list[str]:
    """The answers of the last turn, when they are whole."""
    last = "[...document.querySelectorAll('.turn:last-child .answer')]"
    browser.until(f"{last}.length && {last}.every((each) => each.ariaBusy === 'false') && !send.hidden")
    return list(browser.js(f"{last}.map((each) => each.querySelector('.body').innerText)"))


@pytest.mark.heavy
def test_a_chat_streams_goes_on_and_is_kept_in_the_browser(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path) as found:
        browser.open(found.url)
        browser.until("document.title === 'first'")
        browser.type("#system", "Be brief.")
        browser.type("#temperature", "0.5")
        browser.type("#stop-texts", "END\n\\n\\n")
        found.first.go.clear()
        ask(browser, "one two")
        browser.until("document.querySelector('.answer[aria-busy=true] .body').innerText === 'first says:'")
        found.loop.call_soon_threadsafe(found.first.go.set)
        assert done(browser) == ["first says: one two"]
        ask(browser, "three")
        assert done(browser) == ["first says: three"]
        first, second = found.first.asked
        assert (first["temperature"], first["stop"], first["stream"]) == (0.5, ["END", "\n\n"], True)
        assert "top_p" not in first and first["model"] == "first"
        assert [(m["role"], m["content"]) for m in second["messages"]] == [
            ("system", "Be brief."), ("user", "one two"), ("assistant", "first says: one two"), ("user", "three"),
        ]  # fmt: skip
        ask(browser, "fail")
        until_text(browser, ".turn:last-child .error", "does not fit")
        ask(browser, "break")
        until_text(browser, ".turn:last-child .error", "broke off")
        found.first.go.clear()
        ask(browser, "for ever")
        browser.until("document.querySelector('.turn:last-child .body').innerText === 'first says:'")
        browser.click("#stop")
        until_text(browser, ".turn:last-child .figures", "stopped")
        found.loop.call_soon_threadsafe(found.first.go.set)
        browser.open(found.url)
        browser.until("document.querySelectorAll('.turn').length === 5")
        browser.click("#new")
        browser.until("document.querySelectorAll('.turn').length === 0")
        ask(browser, "another")
        done(browser)
        assert browser.js("[...document.querySelectorAll('#list .title')].map((e) => e.innerText)") == [
            "another",
            "one two",
        ]
        assert len(found.first.asked[-1]["messages"]) == 2
        assert found.said() == []


def test_what_a_model_writes_is_a_text(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path) as found:
        browser.open(found.url)
        browser.until("document.title === 'first'")
        browser.errors.clear()
        ask(browser, "hostile")
        (text,) = done(browser)
        for part in ("<b>title</b>", "<script>window.hurt = 1</script>", "[a link](javascript:window.hurt=1)"):
            assert part in text
        assert browser.js("window.hurt === undefined")
        seen = browser.js("[...document.querySelectorAll('.body *')].map((each) => each.tagName)")
        assert not {"SCRIPT", "IMG", "B"} & set(seen) and {"TABLE", "H3", "PRE", "STRONG"} <= set(seen)
        assert browser.js("[...document.querySelectorAll('.body a')].map((each) => each.protocol)") == ["https:"] * 2
        assert browser.errors == []
        # And were it parsed, the policy would not let it.
        assert browser.js(
            "(() => { try { document.body.innerHTML = '<p>'; return 'parsed'; } catch (e) { return e.name; } })()"
        ) == "TypeError"  # fmt: skip
        assert browser.js("fetch('https://example.org/').catch((error) => error.name)") == "TypeError"
        browser.errors.clear()


@pytest.mark.heavy
def test_two_side_by_side_and_what_is_said_of_them(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path) as found:
        browser.open(found.url)
        browser.choose("#compare", f"{found.url}second/")
        ask(browser, "hello")
        assert done(browser) == ["first says: hello", "second says: hello"]
        assert browser.js("[...document.querySelectorAll('.from .quiet')].map((one) => one.innerText)") == [REF, OTHER]
        browser.click(
            ".answer:nth-child(2) button", "This one is better"
        )  # without consent: for the conversation alone
        browser.until("document.querySelector('.picked .body').innerText === 'second says: hello'")
        assert browser.js("document.querySelector('.buttons .icon').disabled") and found.said() == []
        browser.click("#consent")
        browser.click(".answer:nth-child(2) button", "Chosen")
        until_text(browser, ".answer:nth-child(2) .said", "Kept")
        ask(browser, "more")
        done(browser)
        assert found.first.asked[-1]["messages"][1]["content"] == "second says: hello"
        browser.click(".answer:nth-child(1) button", "Good answer")
        browser.until(
            "document.querySelector('.turn:last-child .answer:nth-child(1) .said').innerText.includes('Kept')"
        )
        browser.click(".answer:nth-child(2) button", "Bad answer")
        browser.until(
            "document.querySelector('.turn:last-child .answer:nth-child(2) .said').innerText.includes('Kept')"
        )
        browser.choose("#compare", "")
        ask(browser, "last")
        done(browser)
        browser.click(".answer button", "Edit")
        browser.type(".editor", "What it should have been.")
        browser.click("button", "Save")
        until_text(browser, ".turn:last-child .said", "Kept")
        choice, up, down, edit = found.said()
        assert [each.artifact for each in answers(choice)] == [OTHER, REF]
        assert (choice.chosen.text, choice.rejected.text) == ("second says: hello", "first says: hello")
        assert (up.thumb, up.answer.artifact, down.thumb, down.answer.artifact) == ("up", REF, "down", OTHER)
        assert edit.edit == "What it should have been." and edit.messages[-1].content == "last"
        assert [each.content for each in edit.messages] == [
            "hello",
            "second says: hello",
            "more",
            "first says: more",
            "last",
        ]
        ask(browser, "on")
        done(browser)
        assert found.first.asked[-1]["messages"][-2]["content"] == "What it should have been."
        browser.click(".turn:nth-child(3) button", "Take back")
        until_text(browser, ".turn:nth-child(3) .said", "Taken back")
        assert type(found.said()[-1]).__name__ == "Withdrawal"
        browser.click("button", "Answer again")
        assert len(done(browser)) == 2
        browser.choose("#compare", "url")
        browser.type("#url", "https://example.org/v1")
        until_text(browser, "#url-error", "127.0.0.1")
        browser.type("#url", f"{found.url}second/v1")
        ask(browser, "by URL")
        assert done(browser) == ["first says: by URL", "second says: by URL"]
        assert browser.errors == []


def test_behind_keys_it_asks_for_one_and_forgets_it(browser: Browser, tmp_path: Path) -> None:
    keys = str(tmp_path / "keys.sqlite")
    key_id, key = make_key(keys)
    with site(tmp_path, keys) as found:
        browser.open(found.url)
        browser.until("document.activeElement.id === 'key'")
        browser.type("#key", "tk_wrong")
        browser.press("Enter")
        until_text(browser, "#key-error", "API key")
        browser.type("#key", key)
        browser.press("Enter")
        browser.until("document.querySelector('#key-form').hidden && document.querySelector('#artifact').innerText")
        ask(browser, "hello")
        assert done(browser) == ["first says: hello"]
        browser.click("#consent")
        browser.click("button", "Good answer")
        until_text(browser, ".said", "Kept")
        assert browser.js("JSON.stringify(sessionStorage)").count(key) == 1
        assert key not in browser.js(
            "JSON.stringify(localStorage) + document.cookie + document.documentElement.outerHTML"
        )
        lines = [line for _, line in read(Location(found.place)) if isinstance(line, Line)]
        assert [line.key for line in lines] == [key_id]
        browser.click("#forget-key")
        browser.until("!document.querySelector('#key-form').hidden")
        assert key not in browser.js("JSON.stringify(sessionStorage)")
        browser.errors.clear()  # of the wrong key


NAMELESS = """[...document.querySelectorAll("button, input, select, textarea, a")]
  .filter((one) => one.checkVisibility() && !one.ariaLabel && !one.textContent.trim() && !one.labels?.length)
  .map((one) => one.outerHTML)"""


def test_on_a_phone_it_fits_and_everything_has_a_name(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path) as found:
        browser.size(360, 640)
        try:
            browser.open(found.url)
            browser.until("document.title === 'first'")
            browser.choose("#compare", f"{found.url}second/")
            browser.type("#draft", "a" * 300)
            browser.click("#send")
            done(browser)
            assert browser.js("document.documentElement.scrollWidth") <= 360
            tops = browser.js("[...document.querySelectorAll('.answer')].map((e) => e.getBoundingClientRect().top)")
            assert tops[1] > tops[0] + 20  # one below the other
            for opener, panel in (("#show-settings", "#settings-panel"), ("#show-list", "#list-panel")):
                browser.click(opener)
                browser.until(f"document.querySelector('{panel}').checkVisibility()")
                assert browser.js("document.documentElement.scrollWidth") <= 360
                assert browser.js(NAMELESS) == []
                browser.press("Escape")
                browser.until(f"!document.querySelector('{panel}').checkVisibility()")
            assert browser.errors == []
        finally:
            browser.size(1280, 800)
