"""The reader of PMC's articles: their text and metadata, and real ones."""

from __future__ import annotations

import csv
import html
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from pipelines.specs import JatsSource
from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers.jats.mathml import text_of
from tests.conftest import SHARED_DATA

DTD = '<!DOCTYPE article PUBLIC "-//NLM//DTD JATS v1.2//EN" "http://dtd.invalid/JATS.dtd">\n'
FRONT = """<front><journal-meta><journal-title-group><journal-title>J  Test</journal-title></journal-title-group>
</journal-meta><article-meta>{meta}<title-group><article-title>A title</article-title></title-group>{abstract}
</article-meta></front>"""


def article(body: str = "<p>Body.</p>", meta: str = "", abstract: str = "", back: str = "", rest: str = "") -> str:
    front = FRONT.format(meta=meta, abstract=abstract)
    return (
        '<article xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML" '
        f'article-type="research-article" xml:lang="en">{front}<body>{body}</body><back>{back}</back>{rest}</article>'
    )


def found(path: Path, data: str | bytes, **options: Any) -> list[Document | Broken]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(JatsSource(path=str(path), **options).read(SourceFile(path.name, str(path), 0, "")))


def only(path: Path, data: str | bytes, **options: Any) -> Document:
    (document,) = found(path, data, **options)
    assert isinstance(document, Document), document
    return document


def broken(path: Path, data: str | bytes) -> Broken:
    (record,) = found(path, data)
    assert isinstance(record, Broken), record.text
    return record


@pytest.fixture
def xml(tmp_path: Path) -> Path:
    return tmp_path / "a.xml"


def blocks(path: Path, body: str, **options: Any) -> list[str]:
    """The blocks of a body's text, without the title."""
    return only(path, article(body), **options).text.split("\n\n")[1:]


# Text.


def test_title_abstract_sections_and_headings_in_order(xml: Path) -> None:
    document = only(
        xml,
        article(
            "<sec><label>1.</label><title>Intro</title><p>One.</p><sec><title>Deep\n  er</title><p>Two.</p></sec></sec>"
            "<sec><title>Nothing here</title></sec><sec><title>End</title><p>Three.</p></sec>",
            abstract="<abstract><title>Abstract</title><sec><title>Aims</title><p>Why.</p></sec></abstract>"
            '<abstract abstract-type="toc"><p>Blurb.</p></abstract>',
        ),
    )
    assert document.text == (
        "A title\n\nAbstract\n\nAims\n\nWhy.\n\n1. Intro\n\nOne.\n\nDeep er\n\nTwo.\n\nEnd\n\nThree."
    )
    assert document.id == "a.xml"


def test_inline_markup_joins_without_blanks(xml: Path) -> None:
    assert blocks(
        xml,
        '<p>\n  H<sub>2</sub>O at 10<sup>-5</sup> of <italic>E. coli</italic>, as <xref rid="a">[1]</xref>–'
        '<xref>3</xref> (<bold>T<italic>x</italic></bold>)<xref ref-type="bibr"><sup>7</sup></xref>.'
        " <!-- no --><?pi no?>\tEnd </p>",
    ) == ["H2O at 10^-5 of E. coli, as [1]–3 (Tx)7. End"]


def test_line_breaks_stay_in_paragraphs_and_not_in_headings(xml: Path) -> None:
    body = "<sec><title>A<break/>B</title><p>one <break/>\n two<break/></p></sec>"
    assert blocks(xml, body) == ["A B", "one\ntwo"]


def test_no_break_spaces_are_kept(xml: Path) -> None:
    assert blocks(xml, "<p>5&#160;mm&#8201;x  2</p>") == ["5\u00a0mm\u2009x 2"]


def test_floats_wait_for_the_end_of_their_paragraph(xml: Path) -> None:
    body = (
        "<p>See <fig><label>Fig. 1</label><caption><title>What.</title><p>It shows.</p></caption><graphic/></fig>here"
        "<fn><label>*</label><p>A note.</p></fn>.</p><boxed-text><caption><title>Box</title></caption><p>In it.</p>"
        "</boxed-text><p>After.</p>"
    )
    assert blocks(xml, body) == ["See here.", "Fig. 1 What.", "It shows.", "* A note.", "Box", "In it.", "After."]


def test_figures_collected_behind_the_body_come_before_the_back(xml: Path) -> None:
    text = article("<p>B.</p>", back="<app-group><app><title>App</title><p>X.</p></app></app-group>").replace(
        "</article>", "<floats-group><fig><label>F1</label><caption><p>C.</p></caption></fig></floats-group></article>"
    )
    assert only(xml, text).text == "A title\n\nB.\n\nF1 C.\n\nApp\n\nX."


def test_a_figure_without_a_caption_lends_its_label_to_nothing(xml: Path) -> None:
    assert blocks(xml, "<fig><label>Fig. 9</label><graphic/></fig><p>Next.</p>") == ["Next."]


def test_lists_are_one_block_nested_by_indentation(xml: Path) -> None:
    body = """<p>Of:<list list-type="order"><list-item><p>one</p></list-item><list-item><p>two</p><p>more</p>
      <list list-type="bullet"><list-item><p>in</p></list-item></list></list-item></list>end</p>
      <list list-type="alpha-lower"><list-item><p>a</p></list-item><list-item><p>b</p></list-item></list>
      <list list-type="simple"><list-item><p>plain</p></list-item></list>
      <list><list-item><label>(i)</label><p>own</p></list-item></list>"""
    assert blocks(xml, body) == ["Of:", "1. one\n2. two\n  more\n  - in", "end", "a. a\nb. b", "plain", "(i) own"]


def test_definitions_verses_quotes_and_code(xml: Path) -> None:
    body = """<def-list><title>Terms</title><def-item><term>IOP</term><def><p>pressure</p></def></def-item></def-list>
      <verse-group><verse-line>Roses</verse-line><verse-line>are red</verse-line></verse-group>
      <disp-quote><p>Quoted.</p><attrib>Someone</attrib></disp-quote><preformat>if x:
    y  =  1</preformat><p>Call <code>f(x)</code> now.</p>"""
    assert blocks(xml, body) == [
        "Terms", "IOP: pressure", "Roses\nare red", "Quoted.", "Someone", "if x:\n    y  =  1", "Call f(x) now."
    ]  # fmt: skip


def test_tables_by_option_and_captions_always(xml: Path) -> None:
    body = """<table-wrap><label>Table 1</label><caption><p>Counts</p></caption><alternatives><graphic/><table><thead>
      <tr><th>a</th><th>b<sup>*</sup></th></tr></thead><tbody><tr><td>1</td><td><p>x</p><p>y</p></td></tr></tbody></table>
      </alternatives><table-wrap-foot><fn><label>*</label><p>not all</p></fn></table-wrap-foot></table-wrap>"""
    assert blocks(xml, body) == ["Table 1 Counts", "* not all"]
    assert blocks(xml, body, tables=True) == ["Table 1 Counts", "a | b*\n1 | x y", "* not all"]


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ('<tr><th rowspan="2">A</th><th colspan="2">B</th></tr><tr><th>b</th><th>c</th></tr><tr><td>1</td><td>2</td>'
         "<td>3</td></tr>", ["A | B | B", "A | b | c", "1 | 2 | 3"]),
        ('<thead><tr><th rowspan="9">A</th><th>B</th></tr><tr><th>b</th></tr></thead><tbody><tr><td>1</td>'
         "<td>2</td></tr></tbody>", ["A | B", "A | b", "1 | 2"]),
        ('<tbody><tr><td rowspan="0">A</td><td>1</td></tr><tr><td>2</td></tr></tbody><tbody><tr><td>B</td>'
         "<td>3</td></tr></tbody>", ["A | 1", "A | 2", "B | 3"]),
        ('<tr><td rowspan="x" colspan="-1">A</td><td colspan="0">1</td></tr><tr><td rowspan="">B</td><td>2</td></tr>',
         ["A | 1", "B | 2"]),
        ('<tr><td rowspan="2" colspan="2">A</td><td>1</td></tr><tr><td>2</td></tr>', ["A | A | 1", "A | A | 2"]),
        ('<tr><td>a</td><td>b</td><td rowspan="2">C</td></tr><tr><td>d</td></tr>', ["a | b | C", "d |  | C"]),
        ('<tr><td>a</td><td rowspan="2">B</td></tr><tr><td colspan="2">c</td></tr>', ["a | B", "c | B"]),
        ('<tr><td>a</td><td><table><tr><td>in</td></tr></table></td></tr>', ["a | in"]),
        ('<tgroup><colspec colname="c1"/><colspec colname="c2"/><colspec colname="c3"/><thead><row>'
         '<entry morerows="1">A</entry><entry namest="c2" nameend="c3">B</entry></row><row><entry>b</entry>'
         "<entry>c</entry></row></thead>"
         "<tbody><row><entry>1</entry><entry>2</entry><entry>3</entry></row></tbody></tgroup>",
         ["A | B | B", "A | b | c", "1 | 2 | 3"]),
    ],
)  # fmt: skip
def test_cells_that_span_stand_in_each_of_their_places(xml: Path, table: str, rows: list[str]) -> None:
    assert blocks(xml, f"<table-wrap><table>{table}</table></table-wrap>", tables=True) == ["\n".join(rows)]


def test_spans_without_measure_fill_no_memory(xml: Path) -> None:
    wide = '<tr><td colspan="999999999" rowspan="999999999">{}</td></tr>'.format("x" * 1000)
    number = "9" * 5000
    tables = f"<table>{wide}{'<tr><td>y</td></tr>' * 2000}</table><table>{wide * 100}</table>"
    document = only(xml, article(f'{tables}<table><tr><td colspan="{number}">z</td></tr></table>'), tables=True)
    assert document.text.count("y") == 2000 and len(document.text) < 8 << 20


def test_formulas_by_option_and_alternatives_once(xml: Path) -> None:
    math = "<mml:math><mml:msub><mml:mi>x</mml:mi><mml:mi>i</mml:mi></mml:msub></mml:math>"
    tex = r"<tex-math>\documentclass[12pt]{minimal} \begin{document}$$x_{i}$$\end{document}</tex-math>"
    body = (
        f"<p>For <inline-formula><alternatives>{math}{tex}<graphic/></alternatives></inline-formula>, so\n"
        f"<disp-formula><label>(1)</label>{math}</disp-formula>and <inline-formula>a<sub>1</sub></inline-formula>.</p>"
    )
    assert blocks(xml, body) == ["For $$x_{i}$$, so", "x_i (1)", "and a1."]
    assert blocks(xml, body, formulas=False) == ["For , so", "and ."]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><msup><mi>c</mi><mn>2</mn></msup></mfrac>", "(a + b)/c^2"),
        ("<mo>-</mo><mn>1</mn><mo>=</mo><mo>-</mo><mi>x</mi>", "-1 = -x"),
        ("<msqrt><mi>x</mi><mo>−</mo><mn>1</mn></msqrt>", "√(x − 1)"),
        ("<mroot><mi>x</mi><mn>3</mn></mroot>", "(x)^(1/3)"),
        ("<mover><mi>y</mi><mo>¯</mo></mover>", "y\u0304"),
        ("<mover><mrow><mi>a</mi><mi>b</mi></mrow><mo>^</mo></mover>", "hat(ab)"),
        ("<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover>", "∑_(i = 1)^n"),
        ("<munderover><mo>∑</mo><mi>i</mi><mi>n</mi></munderover><msub><mi>x</mi><mi>i</mi></msub>", "∑_i^n x_i"),
        ("<mo>(</mo><mrow><munder><mo>∏</mo><mi>i</mi></munder></mrow><mi>p</mi><mo>)</mo>", "(∏_i p)"),
        ("<mrow><msubsup><mo>∫</mo><mn>0</mn><mn>1</mn></msubsup></mrow><mi>f</mi><mo>(</mo><mi>x</mi><mo>)</mo>",
         "∫_0^1 f(x)"),
        ("<mover><munder><mo>∑</mo><mi>i</mi></munder><mi>n</mi></mover><mi>x</mi>", "∑_i^n x"),
        ("<mmultiscripts><mo>∑</mo><mi>i</mi><mi>n</mi></mmultiscripts><mi>x</mi>", "∑_i^n x"),
        ("<munder><mrow><mi>arg</mi><mi>max</mi></mrow><mi>x</mi></munder><mi>f</mi>", "arg max_x f"),
        ("<munder><mi>lim</mi><mi>x</mi></munder><mi>f</mi><msub><mi>log</mi><mn>2</mn></msub><mi>x</mi>",
         "lim_x f log_2 x"),
        ("<mo>(</mo><munder><mo>∑</mo><mi>i</mi></munder><mo>)</mo><msub><mo>∑</mo><mi>i</mi></msub><mo>,</mo>",
         "(∑_i)∑_i,"),
        ("<msup><mrow><mo>∑</mo><mi>x</mi></mrow><mn>2</mn></msup><msub><mi>x</mi><mi>i</mi></msub><mi>y</mi>",
         "(∑x)^2x_iy"),
        ("<mo>[</mo><mn>1</mn><mspace/><mo>]</mo>", "[1 ]"),
        ("<mi>log</mi><mi>p</mi><mo>\u2061</mo><mi>sin</mi><mi>x</mi>", "log p sin x"),
        ("<mfenced><mi>a</mi><mi>b</mi></mfenced>", "(a, b)"),
        ("<semantics><mi>x</mi><annotation>x_tex</annotation></semantics>", "x"),
        ("<mtable><mtr><mtd><mi>a</mi></mtd><mtd><mn>1</mn></mtd></mtr><mtr><mtd/></mtr></mtable>", "a 1;"),
        ("<mmultiscripts><mi>U</mi><mprescripts/><mn>92</mn><mn>238</mn></mmultiscripts>", "_92^238U"),
        ("<mfrac><mi>a</mi></mfrac><msup/>", "a"),
    ],
)  # fmt: skip
def test_mathml(markup: str, text: str) -> None:
    namespace = 'xmlns="http://www.w3.org/1998/Math/MathML"'
    assert text_of(etree.fromstring(f"<math {namespace}>{markup}</math>")) == text


def test_references_by_option(xml: Path) -> None:
    references = """<ref-list><title>References</title>
      <ref id="r1"><label>1.</label><mixed-citation>Doe J. <italic>Nature</italic> 2001.</mixed-citation></ref>
      <ref id="r2"><label>2.</label><element-citation><person-group><name><surname>Roe</surname><given-names>A
      </given-names></name><etal/></person-group><article-title>On it</article-title><source>Cell</source>
      <year>1999</year><volume>3</volume><issue>4</issue><fpage>5</fpage><lpage>9</lpage></element-citation></ref></ref-list>"""
    assert only(xml, article(back=references)).text == "A title\n\nBody."
    assert only(xml, article(back=references), references=True).text.split("\n\n")[2:] == [
        "References", "1. Doe J. Nature 2001.", "2. Roe A, et al (1999). On it. Cell 3(4):5–9"
    ]  # fmt: skip


def test_what_is_about_the_authors_by_option(xml: Path) -> None:
    back = """<ack><title>Acknowledgements</title><p>Thanks.</p></ack><sec><title>Competing interests</title><p>No.</p>
      </sec><sec sec-type="data-availability"><title>Data</title><p>Online.</p></sec><fn-group><fn fn-type="con"><p>JD
      did it.</p></fn><fn><p><bold>Funding:</bold> NIH.</p></fn><fn><p>A real note.</p></fn></fn-group>"""
    meta = "<funding-group><funding-statement>By us.</funding-statement></funding-group>"
    text = article(back=back, meta=meta)
    assert only(xml, text).text.split("\n\n")[2:] == ["Data", "Online.", "A real note."]
    assert only(xml, text, acknowledgements=True).text.split("\n\n")[2:] == [
        "Acknowledgements", "Thanks.", "Competing interests", "No.", "Data", "Online.", "JD did it.", "Funding: NIH.",
        "A real note.", "By us.",
    ]  # fmt: skip


SECTIONS = {
    "matter": "<sec><title>Results</title><p>Res.</p></sec>",
    "funding": "<sec><title>Funding</title><p>By us.</p></sec>",
    "typed": '<sec sec-type="COI-statement"><title>Interests</title><p>None.</p></sec>',
    "data": "<sec><title>Data availability</title><p>Online.</p></sec>",
    "parted": "<sec><title>Funding</title><sec><title>Hospitals</title><p>Rose.</p></sec></sec>",
    "nested": "<sec><title>Author contributions</title><p>All.</p><sec><title>Disclosure</title><p>No.</p></sec></sec>",
    "long": f"<sec><title>Disclosure</title><p>{'of emissions ' * 300}</p></sec>",
}


@pytest.mark.parametrize(
    ("sections", "kept"),
    [
        ("matter funding", "Res."),
        ("matter typed funding data", "Res. Online."),
        ("matter nested", "Res."),
        ("funding matter", "By us. Res."),
        ("typed matter funding", "None. Res."),
        ("matter parted", "Res. Rose."),
        ("matter long", "Res. of emissions"),
    ],
)
def test_of_the_bodys_sections_only_short_ones_at_its_end_are_about_the_authors(
    xml: Path, sections: str, kept: str
) -> None:
    found = blocks(xml, "".join(map(SECTIONS.__getitem__, sections.split())))
    assert " ".join(block[:12].strip() for block in found if "." in block or len(block) > 40) == kept
    within = blocks(xml, f"<sec><title>All</title>{''.join(map(SECTIONS.__getitem__, sections.split()))}</sec>")
    assert within == ["All", *found]
    assert len(blocks(xml, "".join(map(SECTIONS.__getitem__, sections.split())), acknowledgements=True)) >= len(found)


def test_a_nested_section_at_the_end_of_a_part_amid_the_body_is_matter(xml: Path) -> None:
    body = f"<sec><title>Hospitals</title><p>H.</p>{SECTIONS['funding']}</sec>{SECTIONS['matter']}"
    assert blocks(xml, body) == ["Hospitals", "H.", "Funding", "By us.", "Results", "Res."]
    abstract = f"<abstract>{SECTIONS['matter']}{SECTIONS['funding']}</abstract>"
    assert "By us." not in only(xml, article(abstract=abstract)).text


def test_breaks_put_in_for_looks_are_no_blanks(xml: Path) -> None:
    gene = "\n\t\t<italic>G</italic>\n\t\t<sup>+</sup> and \n\t\t<italic>H</italic>"
    pretty = "".join(f"seen {gene} in [\n\t\t<xref>{i}</xref>]. " for i in range(9))
    filled = "".join(f"seen\n<italic>G{i}</italic> in\nit. " for i in range(9))
    assert blocks(xml, f"<p>{pretty}</p>")[0].startswith("seen G+ and H in [0]. seen")
    assert blocks(xml, f"<p>{filled}</p>")[0].startswith("seen G0 in it. seen G1 in it.")


@given(st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1), min_size=1))
def test_every_paragraph_comes_out_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, paragraphs: list[str]
) -> None:
    body = etree.Element("body")
    for paragraph in paragraphs:
        element = etree.SubElement(etree.SubElement(body, "sec"), "p")
        etree.SubElement(element, "italic").text = paragraph
    inner = etree.tostring(body, encoding="unicode").removeprefix("<body>").removesuffix("</body>")
    path = tmp_path_factory.mktemp("jats", numbered=True) / "a.xml"
    assert blocks(path, inner) == paragraphs


# Metadata.


def test_metadata(xml: Path) -> None:
    meta = """<article-id pub-id-type="pmc">123</article-id><article-id pub-id-type="pmid">77</article-id>
      <article-id pub-id-type="doi">https://doi.org/10.1/Ab(c)&lt;1&gt;</article-id>
      <article-version>2</article-version>
      <pub-date pub-type="pmc-release"><year>2020</year><month>1</month><day>1</day></pub-date>
      <pub-date pub-type="ppub"><year>2006</year><month>Feb</month></pub-date><pub-date pub-type="epub"/>"""
    document = only(xml, article(meta=meta))
    assert document.metadata == {
        "article_type": "research-article", "language": "en", "journal": "J Test", "pmcid": "PMC123", "pmid": "77",
        "doi": "10.1/Ab(c)<1>", "date": "2006-02", "version": "2",
    }  # fmt: skip
    assert document.url == "https://doi.org/10.1/Ab(c)%3C1%3E"
    assert document.license == ""


def test_address_at_pmc_where_there_is_no_doi(xml: Path) -> None:
    document = only(xml, article(meta='<article-id pub-id-type="pmcid">PMC9.3</article-id>'))
    assert document.url == "https://pmc.ncbi.nlm.nih.gov/articles/PMC9/"
    assert (document.metadata["pmcid"], document.metadata["version"]) == ("PMC9", "3")
    assert only(xml.with_name("PMC8.xml"), article()).metadata["pmcid"] == "PMC8"


@pytest.mark.parametrize(
    ("dates", "date"),
    [
        ('<pub-date date-type="pub" publication-format="electronic"><day>3</day><month>04</month><year>2019</year>'
         '</pub-date><pub-date date-type="collection"><year>2018</year></pub-date>', "2019-04-03"),
        ('<pub-date pub-type="epub" iso-8601-date="2021-01-15T10:00"><year>1999</year></pub-date>', "2021-01-15"),
        ('<pub-date pub-type="ppub"><season>Spring</season><year>2001</year></pub-date>', "2001"),
        ('<pub-date><month>13</month><year>2001</year></pub-date>', "2001"),
        ('<pub-date><year>in press</year></pub-date>', ""),
    ],
)  # fmt: skip
def test_dates(xml: Path, dates: str, date: str) -> None:
    assert only(xml, article(meta=dates)).metadata.get("date", "") == date


@pytest.mark.parametrize(
    ("permissions", "license"),
    [
        ('<license xlink:href="http://creativecommons.org/licenses/by-nc-nd/4.0/"/>', "CC-BY-NC-ND-4.0"),
        ('<license><ali:license_ref xmlns:ali="http://www.niso.org/schemas/ali/1.0/">'
         "https://creativecommons.org/publicdomain/zero/1.0/</ali:license_ref></license>", "CC0-1.0"),
        ('<license xlink:href="https://creativecommons.org/licenses/by/3.0/igo/legalcode"/>', "CC-BY-3.0-IGO"),
        ('<license><p>Terms (<uri xlink:href="http://creativecommons.org/licenses/by/2.0">x</uri>).</p></license>',
         "CC-BY-2.0"),
        ("<license><license-p>distributed under the Creative Commons Attribution License, which permits any use, "
         "even non-commercial</license-p></license>", "CC-BY"),
        ("<license><p>the Creative Commons Attribution Non-Commercial License 3.0</p></license>", "CC-BY-NC-3.0"),
        ("<license><p>under a Creative Commons Attribution-ShareAlike 4.0 International License.</p></license>",
         "CC-BY-SA-4.0"),
        ('<license license-type="CC BY-NC 4.0"><p>See the site.</p></license>', "CC-BY-NC-4.0"),
        ('<license><license-p>The dataset is <ext-link xlink:href="http://creativecommons.org/publicdomain/zero/1.0/">CC0'
         '</ext-link>; this paper is <uri xlink:href="https://creativecommons.org/licenses/by-nc/4.0/deed.en">CC BY-NC'
         "</uri>.</license-p></license>", "CC-BY-NC-4.0"),
        ("<license><p>Distributed under CC BY 4.0. The Creative Commons Public Domain Dedication waiver "
         "(http://creativecommons.org/publicdomain/zero/1.0/) applies to the data made available in this article.</p>"
         "</license>", "CC-BY-4.0"),
        ('<license xlink:href="http://creativecommons.org/publicdomain/zero/1.0/"><p>Data: CC0. The article is '
         "licensed under CC BY-SA 3.0.</p></license>", "CC-BY-SA-3.0"),
        ("<license><p>The article is CC BY 4.0 and the figures are CC BY-NC-ND 4.0.</p></license>", "CC-BY-4.0"),
        ("<license><p>All rights reserved. The data are CC0.</p></license>", ""),
        ('<license license-type="data" xlink:href="https://creativecommons.org/publicdomain/zero/1.0/"/>'
         '<license xlink:href="https://creativecommons.org/licenses/by/4.0/"/>', "CC-BY-4.0"),
        ('<license xlink:href="https://creativecommons.org/licenses/by/4.0/"/>'
         '<license xlink:href="https://creativecommons.org/licenses/by-nc-nd/4.0/"/>', "CC-BY-NC-ND-4.0"),
        ('<license><ali:license_ref specific-use="tdm">https://example.org/tdm/userlicense/1.0/</ali:license_ref>'
         "<license-p>No further use.</license-p></license>", ""),
        ('<license><ali:license_ref specific-use="tdm" start_date="2020-01-01">http://creativecommons.org/licenses/by/4.0/'
         '</ali:license_ref><ali:license_ref specific-use="vor">http://creativecommons.org/licenses/by-nc/4.0/'
         "</ali:license_ref></license>", "CC-BY-NC-4.0"),
        ('<license xlink:href="http://creativecommons.org/licenses/by/3.0/us/"><p>Not CC BY-NC.</p></license>',
         "CC-BY-3.0-US"),
        ('<license xlink:href="http://creativecommons.org/licenses/by-nd-nc/1.0/"/>', "CC-BY-NC-ND-1.0"),
        ("<license><p>Open access (CC\u2010BY\u2010NC).</p></license>", "CC-BY-NC"),
        ('<license license-type="open-access"><p>Free to read.</p></license>', ""),
        ('<license license-type="creativeCommonsBy"/>', "CC-BY"),
        ("<copyright-statement>This is in the public domain.</copyright-statement>", "public-domain"),
        ("<copyright-statement>All rights reserved.</copyright-statement>", ""),
    ],
)  # fmt: skip
def test_licenses(xml: Path, permissions: str, license: str) -> None:
    assert only(xml, article(meta=f"<permissions>{permissions}</permissions>")).license == license


def test_a_figures_license_is_not_the_articles(xml: Path) -> None:
    url = "http://creativecommons.org/licenses/by/4.0/"
    fig = f'<fig><caption><p>C.</p></caption><permissions><license xlink:href="{url}"/></permissions></fig>'
    assert only(xml, article(fig)).license == ""


def test_translations_and_reports_are_documents_of_their_own(xml: Path) -> None:
    meta = """<article-id pub-id-type="pmc">5</article-id><article-id pub-id-type="doi">10.1/en</article-id>
      <permissions><license xlink:href="https://creativecommons.org/licenses/by/4.0/"/></permissions>"""
    rest = """<sub-article article-type="translation" xml:lang="pt"><front-stub><article-id pub-id-type="doi">10.1/pt
      </article-id><title-group><article-title>Um título</article-title></title-group></front-stub><body><p>Corpo.</p>
      </body><sub-article article-type="reply"><body><p>Resposta.</p></body></sub-article></sub-article>
      <response response-type="reply"><front-stub/></response>"""
    main, translated, reply, empty = found(xml, article(meta=meta, rest=rest))
    assert isinstance(main, Document) and isinstance(translated, Document) and isinstance(reply, Document)
    assert (main.text, translated.text, reply.text) == ("A title\n\nBody.", "Um título\n\nCorpo.", "Resposta.")
    assert (translated.id, reply.id) == ("a.xml#part1", "a.xml#part1#part1")
    assert translated.metadata == {
        "article_type": "translation", "language": "pt", "doi": "10.1/pt", "pmcid": "PMC5", "journal": "J Test",
        "part_of": "a.xml",
    }  # fmt: skip
    assert reply.metadata["part_of"] == "a.xml" and reply.license == "CC-BY-4.0"
    assert reply.url == "https://pmc.ncbi.nlm.nih.gov/articles/PMC5/"
    assert isinstance(empty, Broken) and empty.id == "a.xml#part2" and empty.reason.startswith("no_text")


def test_a_translated_title_stands_before_its_abstract(xml: Path) -> None:
    text = article(abstract='<trans-abstract xml:lang="es"><p>Resumen.</p></trans-abstract>').replace(
        "</title-group>",
        '<trans-title-group xml:lang="es"><trans-title>Título</trans-title></trans-title-group></title-group>',
    )
    assert only(xml, text).text == "A title\n\nTítulo\n\nResumen.\n\nBody."


# Real articles.


def _shared(name: str, **options: Any) -> list[tuple[str, list[Document | Broken]]]:
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}: the shared data is not here")
    source = JatsSource(path=str(folder), **options)
    return [(file.name, list(source.read(file))) for file in source.list_files()]


def test_every_real_article_is_read_and_agrees_with_its_index() -> None:
    files = dict(_shared("jats"))
    with open(SHARED_DATA / "jats" / "INDEX.csv", encoding="utf-8", newline="") as index:
        rows = {row["file"].removeprefix("jats/"): row for row in csv.DictReader(index)}
    assert len(files) == 106 and set(files) <= set(rows)
    for name, records in files.items():
        document, row = records[0], rows[name]
        assert isinstance(document, Document) and not any(isinstance(record, Broken) for record in records), name
        known = document.metadata
        assert known.get("doi", "").lower() == row["doi"].lower(), name
        if not name.endswith("f1000research_1.xml"):  # there the index took the PMCID of a cited article
            assert known.get("pmcid", "").removeprefix("PMC") == row["pmcid"].removeprefix("PMC"), name
        assert known.get("article_type", "") == row["type"], name
        assert known.get("language", "") == row["lang"].lower(), name
        assert known["journal"] == html.unescape(row["journal"]), name
        kind = row["licence"].removeprefix("licenses/").replace("/", "-").upper()
        stated = {"TEXT:CC-BY?": "CC-BY", "PUBLICDOMAIN-ZERO": "CC0-1.0"}.get(kind, f"CC-{kind}")
        assert document.license.startswith(stated), (name, document.license, row["licence"])
        assert known["date"][:2] in ("19", "20") and document.url, name
        assert all("<" not in word or ">" not in word for word in document.text.split()[:50]), name


def test_broken_real_files_are_read_or_say_why() -> None:
    files = {name.rsplit("/", 1)[1]: records for name, records in _shared("jats_hard", references=True)}
    (entity,) = files["2318-0889-tinf-33-e200057.xml"]
    assert isinstance(entity, Document) and "¿" in entity.text and "unknown_entities" not in entity.metadata
    (junk,) = files["document5.xml"]
    assert isinstance(junk, Broken) and junk.position == "line 2, column 1" and junk.reason.startswith("no_article")
    (empty,) = files["fulltext.xml"]
    assert isinstance(empty, Broken) and empty.reason == "empty"
