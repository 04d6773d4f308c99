"""Exponents in plain text, and in the pages of the web."""

from __future__ import annotations

import time

import pytest

from pipelines.stages.corpus.readers.html_pages import extract
from pipelines.stages.corpus.readers.superscripts import power


def test_a_power_is_told_from_its_line_alone() -> None:
    assert power("about 10", "6", "") == "^6"
    assert power("a word", "6", "") is None
    assert power("", "6", "") is None


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("3 × 10<sup>6</sup>, 10<SUP class=x> &minus;3 </SUP>g", "3 × 10^6, 10^−3g"),
        ("<b>10</b><sup><i>6</i></sup> of 10 <sup>7</sup>", "10^6 of 10^7"),
        ("2<sup>10</sup>, 10<sup>6&ndash;8</sup>", "2^10, 10^(6–8)"),
        ('in 2010<sup><a href="#n">1</a></sup> m<sup>2</sup> 1<sup>st</sup>', "in 20101 m2 1st"),
        ('10<sup>6<a href="#n">1</a></sup>, 10<sup>7</sup><sup><a href="#n">2</a></sup>', "10^6 1, 10^7 2"),
        ("10<!-- x --><sup>6</sup>, 10<sup><abbr>7</abbr><br></sup>, 10&nbsp;<sup>8</sup>", "10^6, 10^7, 10^8"),
        ("10<sup>10<sup>2</sup></sup>, 10<sup>(−1/slope)</sup>", "10^(10^2), 10^(−1/slope)"),
        ('10<span style="vertical-align: super">6</span>, 10<span class=superscript>7</span>', "10^6, 10^7"),
        ("<math><msup><mn>10</mn><mrow><mo>&minus;</mo><mn>6</mn></mrow></msup></math> g", "10^(−6) g"),
        ("<math xmlns='x'><mfrac><mn>1</mn><mn>2</mn></mfrac></math>, <math>2</wrong></math>", "1/2, 2"),
        ("no<sup>1</sup> mark at<br>10<br><sup>6</sup>", "no1 mark at 10 6"),
    ],
)
def test_a_page_keeps_its_exponents(markup: str, text: str) -> None:
    html = f"<html><body><p>The page says {markup} and ends.</p></body></html>"
    assert " ".join(extract(html, main_content=False).text.split()) == f"The page says {text} and ends."


def test_openers_without_end_take_no_time() -> None:
    started = time.perf_counter()
    extract("<p>10" + "<sup>" * 300 + "10<sup>6</sup>" * 20_000 + "10<sup " * 20_000, main_content=False)
    assert time.perf_counter() - started < 30
