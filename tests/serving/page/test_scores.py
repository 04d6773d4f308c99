"""The score of a reward model beside the page's answers: a real one, asked as an endpoint or as a model beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.core.specs.endpoint import Limits
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.stages.alignment.reward import RewardModel
from pipelines.stages.alignment.rewards.sample import Sample
from serving.over_transformers import opened
from tests.serving.keys.small_app import make_key
from tests.serving.page.browser import Browser
from tests.serving.page.test_browser import JUDGE, ask, done, site, until_text
from tests.serving.pooling import models

pytestmark = pytest.mark.heavy

REWARDS = "[...document.querySelectorAll('.turn:last-child .reward')]"


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return models.reward(Store(tmp_path_factory.mktemp("store")))


def shown(browser: Browser, count: int) -> list[str]:
    """The scores of the last turn, when there are so many."""
    browser.until(f"{REWARDS}.length === {count}")
    return list(browser.js(f"{REWARDS}.map((each) => each.innerText)"))


def expected(reward: Artifact, messages: list[dict[str, str]], *answers: str) -> list[str]:
    """What the reward stage scores, as the page writes it."""
    scores = RewardModel(reward.local()).score_samples([Sample(messages, text, True) for text in answers])
    return [f"reward {score:.2f}" for score in scores]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_two_answers_are_scored_and_what_is_made_of_them(browser: Browser, tmp_path: Path, reward: Artifact) -> None:
    with site(tmp_path, judge=opened(reward).app("judge", Limits())) as found:
        browser.open(found.url)
        browser.until("document.querySelector('#scorer').innerText === 'judge'")
        browser.choose("#compare", f"{found.url}second/")  # which waits until the others are listed
        assert "judge" not in browser.js("document.querySelector('#compare').textContent")
        ask(browser, "ask more")
        assert done(browser) == ["first says: ask more", "second says: ask more"]
        both = shown(browser, 2)
        assert both == expected(reward, [user("ask more")], "first says: ask more", "second says: ask more")
        assert both[0] != both[1]
        best = max((0, 1), key=lambda number: float(both[number].split()[1]))
        assert browser.js(f"{REWARDS}.map((each) => each.classList.contains('best'))") == [best == 0, best == 1]
        assert browser.js(f"{REWARDS}[0].title") == f"Scored by {JUDGE}"
        browser.choose("#compare", "")
        ask(browser, "no")
        done(browser)
        before = [user("ask more"), {"role": "assistant", "content": "first says: ask more"}, user("no")]
        assert shown(browser, 1) == expected(reward, before, "first says: no")
        browser.click(".answer button", "Edit")
        browser.type(".editor", "yes no more")
        browser.click("button", "Save")
        edited = expected(reward, before, "yes no more")
        browser.until(f"{REWARDS}[0]?.innerText === {json.dumps(edited[0])}")
        browser.open(found.url)  # it is kept with its conversation
        assert shown(browser, 1) == edited
        browser.click("#scores")
        ask(browser, "off")
        done(browser)
        ask(browser, "still off")
        done(browser)
        assert browser.js("document.querySelectorAll('.reward').length") == 3
        assert browser.errors == []


def test_a_model_beside_scores_with_the_visitors_key(browser: Browser, tmp_path: Path, reward: Artifact) -> None:
    """Behind the same endpoint, and not among the models to chat with; a key that is for others gets no score."""
    keys = str(tmp_path / "keys.sqlite")
    _, key = make_key(keys)
    _, limited = make_key(keys, "limited", models=("first",))
    with site(tmp_path, keys, opened(reward).app("judge", Limits()), beside=True) as found:
        browser.open(found.url)
        browser.type("#key", key)
        browser.press("Enter")
        browser.until("document.querySelector('#scorer').innerText === 'judge'")
        assert browser.js("[...document.querySelectorAll('#model option')].map((each) => each.value)") == ["first"]
        ask(browser, "yes")
        done(browser)
        assert shown(browser, 1) == expected(reward, [user("yes")], "first says: yes")
        browser.click("#forget-key")
        browser.type("#key", limited)
        browser.press("Enter")
        browser.until("document.querySelector('#key-form').hidden")
        ask(browser, "no")
        assert done(browser) == ["first says: no"]
        until_text(browser, ".turn:last-child .figures", "not scored: ")
        assert shown(browser, 0) == []
        browser.errors.clear()  # of the request that was refused
