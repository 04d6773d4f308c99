"""What JATS's markup says in figures: exponents, and the numbers of cross-references that stand empty."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.specs import JatsSource
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.readers.jats.prolog import Prolog
from pipelines.stages.corpus.readers.jats.xml import cut
from tests.conftest import SHARED_DATA
from tests.corpus.test_jats import article, blocks, only


def line(tmp_path: Path, markup: str, **options: Any) -> str:
    """The one block of a paragraph's text."""
    (block,) = blocks(tmp_path / "a.xml", f"<p>{markup}</p>", **options)
    return block


# Exponents.


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("3 × 10<sup>6</sup> cells, 2.5x10<sup>-3</sup> M", "3 × 10^6 cells, 2.5x10^-3 M"),
        ("10<sup>−3</sup> and 10<sup>–4</sup>", "10^−3 and 10^–4"),
        ("10<sup> − 3 </sup>g", "10^−3g"),
        ("10<sup>\u2212\u20093</sup>, 10<sup>\xad6</sup>, 10<sup>—7</sup>", "10^−3, 10^-6, 10^—7"),
        ("10<sup><italic>6</italic></sup> of <italic>10<sup>7</sup></italic>", "10^6 of 10^7"),
        ("<bold>10</bold><sup>6</sup>", "10^6"),
        ("10<sup>−</sup><sup>6</sup>", "10^−6"),
        ("10 <sup>6</sup> cells, 5 × 10\u2009<sup>−7</sup> M", "10^6 cells, 5 × 10^−7 M"),
        ("10<sup>5.2</sup> to 10<sup>6–8</sup>", "10^5.2 to 10^(6–8)"),
        ("10<sup>n</sup>, 10<sup>n−1</sup>", "10^n, 10^(n−1)"),
        ("2<sup>10</sup> is 1024; 2<sup>−ΔΔCt</sup>", "2^10 is 1024; 2^−ΔΔCt"),
        ("2<sup>10<sup>6</sup></sup>", "2^(10^6)"),
        ("<inline-formula>10<sup>4</sup></inline-formula>", "10^4"),
        ("in 2010<sup>1</sup>, of 0.05<sup>2</sup>", "in 2010^1, of 0.05^2"),
        ("PO<sub>4</sub><sup>3−</sup>", "PO4^3−"),
        ("E = 10<sup>(−1/slope)</sup> − 1; 2<sup>(–ΔΔCt)</sup>", "E = 10^(−1/slope) − 1; 2^(–ΔΔCt)"),
        ("10<sup>−(pH)</sup>, 10<sup>[−1/k]</sup>, 10<sup>L/10</sup>", "10^(−(pH)), 10^[−1/k], 10^(L/10)"),
        ("10<sup>6 to 8</sup> cells, 10<sup>9 CFU/ml</sup>", "10^(6 to 8) cells, 10^(9 CFU/ml)"),
        ("10<sup>−</sup>6, 10<sup>–</sup> <sup>7</sup>", "10^−6, 10^–7"),
        ("10<sup>.5</sup>, 10<sup>½</sup>, 10<sup>¯6</sup>, 10<sup>−−6</sup>", "10^(.5), 10^½, 10^¯6, 10^(−−6)"),
        ("10​<sup>6</sup>, 10<target id='t'/><sup>7</sup>", "10​^6, 10^7"),
        ("10<fixed-case><sup>6</sup></fixed-case>, 10<sup>7<target id='t'/></sup>", "10^6, 10^7"),
        ('10<styled-content style="vertical-align: super">6</styled-content>', "10^6"),
        ("10<sup><inline-formula><tex-math>6</tex-math></inline-formula></sup>", "10^6"),
        ("10 <sup>6</sup>U/ml, 10 <sup>5</sup>K", "10^6U/ml, 10^5K"),
    ],
)  # fmt: skip
def test_a_number_raised_behind_a_number_does_not_read_as_one_with_it(tmp_path: Path, markup: str, text: str) -> None:
    assert line(tmp_path, markup) == text


MARK = '<xref ref-type="bibr" rid="b">1</xref>'


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (f"10<sup>6</sup>{MARK} cells", "10^6 1 cells"),
        (f"10<sup>6</sup><sup>{MARK}</sup> cells", "10^6 1 cells"),
        (f"<italic>10<sup>6</sup></italic>{MARK} cells", "10^6 1 cells"),
        (f"10<sup>6{MARK}</sup> cells", "10^6 1 cells"),
        (f"10<sup><italic>6</italic>,{MARK}</sup> cells", "10^6,1 cells"),
        (f"in 2010<sup>6,{MARK}</sup>", "in 20106,1"),
    ],
)
def test_a_mark_behind_a_power_is_no_part_of_its_exponent(tmp_path: Path, markup: str, text: str) -> None:
    assert line(tmp_path, markup) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("the 1<sup>st</sup> of May, p &lt; 0.05<sup>a</sup>", "the 1st of May, p < 0.05a"),
        ("m<sup>2</sup>, cm<sup>-1</sup>, Ca<sup>2+</sup>", "m2, cm-1, Ca2+"),
        ("CO<sub>2</sub>, NH<sub>4</sub><sup>+</sup>, CD8<sup>+</sup>", "CO2, NH4+, CD8+"),
        ("Vnn1<sup>−/−</sup>, CD4<sup>−high</sup>", "Vnn1−/−, CD4−high"),
        ("seen before<sup>1,2</sup>", "seen before1,2"),
        ('of 10<xref ref-type="fn" rid="f"><sup>6</sup></xref>', "of 106"),
        ('of 10<sup><xref ref-type="bibr" rid="b">6</xref>,<xref>7</xref></sup>', "of 106,7"),
        ("for 10 <sup>14</sup>C dates; at 250 <sup>0</sup>C", "for 10 14C dates; at 250 0C"),
        ("in 2010 <sup>1</sup>, 10<sup>th</sup>, 10<sup>*</sup>", "in 2010 1, 10th, 10*"),
    ],
)  # fmt: skip
def test_marks_letters_and_units_stay_as_they_are(tmp_path: Path, markup: str, text: str) -> None:
    assert line(tmp_path, markup) == text


def test_exponents_everywhere_in_an_article(tmp_path: Path) -> None:
    ten = "10<sup>6</sup>"
    body = (
        f"<sec><title>Of {ten}</title><fig><label>F {ten}</label><caption><p>{ten} cells</p></caption></fig>"
        f"<table-wrap><table><tr><td>{ten}</td></tr></table></table-wrap><preformat>{ten}</preformat>"
        f"<list><list-item><p>{ten}</p></list-item></list></sec>"
    )
    back = f"<ref-list><ref><mixed-citation>On {ten} mice. 2001.</mixed-citation></ref></ref-list>"
    text = article(body, abstract=f"<abstract><p>At {ten}.</p></abstract>", back=back).replace("A title", f"A {ten}")
    found = only(tmp_path / "a.xml", text, tables=True, references=True).text
    assert found.split("\n\n") == [
        "A 10^6", "At 10^6.", "Of 10^6", "F 10^6 10^6 cells", "10^6", "10^6", "- 10^6", "On 10^6 mice. 2001.",
    ]  # fmt: skip


def test_exponents_of_mathml_have_their_caret(tmp_path: Path) -> None:
    power = "<mml:msup><mml:mn>10</mml:mn><mml:mrow><mml:mo>−</mml:mo><mml:mn>3</mml:mn></mml:mrow></mml:msup>"
    apart = "10<inline-formula><mml:math><mml:msup><mml:mi/><mml:mn>6</mml:mn></mml:msup></mml:math></inline-formula>"
    assert line(tmp_path, f"<inline-formula><mml:math>{power}</mml:math></inline-formula> {apart}") == "10^(−3) 10^6"
    behind = "<mml:msup><mml:mn>10</mml:mn><mml:mn>6</mml:mn></mml:msup><mml:mn>5</mml:mn>"
    assert line(tmp_path, f"<inline-formula><mml:math>{behind}</mml:math></inline-formula>") == "10^6 5"
    within = "<mml:mtext>of 10<sup>6</sup> cells</mml:mtext>"
    assert line(tmp_path, f"<inline-formula><mml:math>{within}</mml:math></inline-formula>") == "of 10^6 cells"


@pytest.mark.heavy
def test_no_power_of_ten_of_a_real_article_is_flattened() -> None:
    folder = SHARED_DATA / "jats"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: the shared data is not here")
    source = JatsSource(path=str(folder), tables=True, references=True, acknowledgements=True)
    stated = written = 0
    for file in source.list_files():
        text = "\n".join(record.text for record in source.read(file) if isinstance(record, Document))
        markup = _body_markup(Path(file.path))
        powers = re.findall(r"(?<![\d.])10<sup>\s*([-−–‐]?\s*\d+)\s*</sup>", markup)
        powers = ["10^" + "".join(exponent.split()) for exponent in powers]
        stated += len(powers)
        written += len(re.findall(r"(?<![\d.])10\^", text))
        for exponent in set(powers):
            assert text.count(exponent) >= powers.count(exponent), (file.name, exponent)
            flat = exponent.replace("^", "")
            assert not re.search(rf"[×x·]\s?{flat}\b", text), (file.name, flat)
    assert written >= stated > 50


def _body_markup(path: Path) -> str:
    """An article's text with no markup but `sup`, without what the reader leaves out: teasers, pictures' names."""
    prolog, parts = Prolog(), []
    with open(path, "rb") as stream:
        for piece in cut(stream):
            prolog.read(piece)
            if piece.data:
                root, _ = prolog.parse(piece)
                for kept in ("article-title", "abstract", "body", "back", "floats-group"):
                    parts += [_markup(element) for element in root.iter(f"{{*}}{kept}") if not _is_within(element)]
    return "\n".join(parts)


def _markup(element: Any) -> str:
    tag = str(element.tag).rpartition("}")[2]
    inner = (element.text or "") + "".join(_markup(child) + (child.tail or "") for child in element)
    if element.get("abstract-type") in ("toc", "teaser") or tag in ("tex-math", "alt-text"):
        return ""
    if tag in ("italic", "bold"):
        return inner
    return f"<sup>{inner}</sup>" if tag == "sup" else f"\n{inner}\n"


def _is_within(element: Any) -> bool:
    """Whether another part that is kept holds this one, so that it would count twice."""
    kept = ("abstract", "body", "back", "floats-group")
    return any(str(above.tag).rpartition("}")[2] in kept for above in element.iterancestors())


# Empty cross-references.

TARGETS = """<fig id="F1"><label>Figure 2</label><caption><p>C.</p></caption></fig><fig id="F2"><label>Figure 3.</label>
  </fig><fig id="F3"><graphic/></fig><table-wrap id="T1"><label>Table 4</label></table-wrap><disp-formula id="E1">
  <label>(3)</label></disp-formula><sec id="S2"><label>2.1</label><title>Methods</title></sec><sec id="S3"><title>Our
  data</title></sec><fig id="A1"><label>Appendix 2 Figure 1.</label></fig><fig id="Z1"><label>图 5</label></fig>
  <fig id="Z2"><label>그림6</label></fig>"""
REFERENCES = """<ref-list><ref id="b1"><label>7.</label></ref><ref id="b2"><label>Doe et al.(2010)Doe and Poe</label>
  </ref><ref id="b3"><label>Roe(1999a)</label></ref><ref id="b4"><element-citation><name><surname>Poe</surname></name>
  <name><surname>Lee</surname></name><year>2003</year></element-citation></ref><ref id="b5"><mixed-citation>?
  </mixed-citation></ref></ref-list>"""


def x(rid: str, kind: str = "fig", id: str = "") -> str:
    return f'<xref ref-type="{kind}" rid="{rid}" id="{id}"/>'


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (f"Fig.&#160;{x('F1')}a, Eq. ({x('E1')}), Sect. {x('S2')}", "Fig.\u00a02a, Eq. (3), Sect. 2.1"),
        (f"Figs. {x('F1')} and {x('F2')}; tables {x('T1')}", "Figs. 2 and 3; tables 4"),
        (f"Figs. {x('F1')}–{x('F2')}, figures {x('F1 F2')}", "Figs. 2–3, figures 2, 3"),
        (f"Figs. {x('F1')}{x('F2')} show", "Figs. 2, 3 show"),
        (f"As {x('F1')} and {x('T1')} show, by {x('E1')}", "As Figure 2 and Table 4 show, by (3)"),
        (f"({x('F1')}; see {x('S3', 'sec')})", "(Figure 2; see Our data)"),
        (f"Fig. {x('F3')} and {x('nowhere')} say nothing.", "Fig. and say nothing."),
        (f"It ends.{x('F1')} Next word{x('A1')}", "It ends. Next word"),
        ('Fig. <xref rid="F1"><italic> </italic></xref>', "Fig. 2"),
        (f"如图{x('Z1')}所示，{x('Z1')}；그림 {x('Z2')}", "如图5所示，图 5；그림 6"),
        (f"in [{x('b1', 'bibr')}] and word<sup>{x('b1', 'bibr')}</sup>", "in [7] and word 7"),
        (f"By {x('b2', 'bibr', 'text.1')} {x('b2 b3', 'bibr', 'paren.2')}.",
         "By Doe et al. (2010) (Doe et al., 2010; Roe, 1999a)."),
        (f"(e.g. {x('b3', 'bibr', 'altparen.3')}; {x('b4', 'bibr')})", "(e.g. Roe, 1999a; Poe and Lee, 2003)"),
        (f"By {x('b4', 'bibr')} in [{x('b5', 'bibr')}]", "By Poe and Lee (2003) in [5]"),
    ],
)  # fmt: skip
def test_an_empty_cross_reference_says_its_targets_label(tmp_path: Path, markup: str, text: str) -> None:
    found = only(tmp_path / "a.xml", article(f"<p>{markup}</p>{TARGETS}", back=REFERENCES))
    assert found.text.split("\n\n")[1] == text


def test_the_hidden_middle_of_a_range_stays_empty(tmp_path: Path) -> None:
    markup = f"<xref>4</xref>{x('b1', 'bibr')}–<xref>6</xref> and <xref>Figs. 1</xref>–{x('F1')}{x('F2')}<xref>4</xref>"
    found = only(tmp_path / "a.xml", article(f"<p>{markup}</p>{TARGETS}", back=REFERENCES))
    assert found.text.split("\n\n")[1] == "4–6 and Figs. 1–4"


def test_affiliations_and_titles_are_not_filled(tmp_path: Path) -> None:
    text = article(f"<p>B.</p>{TARGETS}").replace("A title", f"A title{x('F1', 'fn')}")
    assert only(tmp_path / "a.xml", text).text.startswith("A title\n\n")
