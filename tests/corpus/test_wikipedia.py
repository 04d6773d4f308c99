"""Dumps of MediaWiki: every page is counted, markup becomes text, and no page, however broken, holds up the others."""

from __future__ import annotations

import bz2
import gzip
import re
import time
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.specs import WikipediaSource
from pipelines.stages.corpus.documents import Broken, Document
from pipelines.stages.corpus.readers.wikipedia.templates import TEXTS
from pipelines.stages.corpus.readers.wikipedia.wikitext import MAX_CHARACTERS, to_text
from tests.conftest import SHARED_DATA
from tests.corpus.files import read_file

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="de"><siteinfo>
<base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base><namespaces><namespace key="0" />
<namespace key="6" case="first-letter">Datei</namespace><namespace key="14">Kategorie</namespace></namespaces>
</siteinfo>"""


MARKS_INSIDE = set("\x01\x02\x03\x04\x05\x06")


def page(number: int, markup: str, *, title: str = "", ns: int = 0, redirect: str = "", model: str = "wikitext") -> str:
    target = f"<redirect title={quoteattr(redirect)} />" if redirect else ""
    return (
        f"<page><title>{escape(title or f'Seite {number}')}</title><ns>{ns}</ns><id>{number}</id>{target}"
        f"<revision><id>{number}7</id><timestamp>2024-05-01T00:00:00Z</timestamp><model>{model}</model>"
        f'<text xml:space="preserve">{escape(markup)}</text></revision></page>\n'
    )


def dump(*pages: str) -> bytes:
    return (HEAD + "".join(pages) + "</mediawiki>").encode()


def read(
    path: Path, data: bytes, name: str = "wiki.xml", *, templates: bool = False, license: str = ""
) -> tuple[list[Document | Broken], str]:
    """What a file of these bytes holds, and what ended it early."""
    (path / name).write_bytes(data)
    source = WikipediaSource(path=str(path / name), templates=templates, license=license)
    return read_file(source)


def ids(found: list[Document | Broken]) -> list[str]:
    return [record.id.partition("#")[2] for record in found]


def test_a_document_knows_its_page(tmp_path: Path) -> None:
    article = page(12, "Ein [[Wort]].", title="Köln: Dom & Rhein's")
    (found,), error = read(tmp_path, dump(article))
    assert not error
    assert isinstance(found, Document)
    assert (found.id, found.text, found.license) == ("wiki.xml#12", "Ein Wort.", "CC-BY-SA-4.0")
    assert found.url == "https://de.wikipedia.org/wiki/K%C3%B6ln:_Dom_%26_Rhein%27s"
    assert found.metadata == {
        "title": "Köln: Dom & Rhein's",
        "revision": "127",
        "timestamp": "2024-05-01T00:00:00Z",
        "language": "de",
    }
    (found,), _ = read(tmp_path, dump(article), license="CC-BY-SA-3.0")
    assert isinstance(found, Document)
    assert found.license == "CC-BY-SA-3.0"


def test_what_is_no_article_says_so(tmp_path: Path) -> None:
    found, error = read(
        tmp_path,
        dump(
            page(1, "#WEITERLEITUNG [[Ziel]]", redirect="Ziel"),
            page(2, "#REDIRECT [[Altes Ziel#Abschnitt]]"),
            page(3, "Diskussion", ns=1),
            page(4, '{"a": 1}', model="json"),
            page(5, "{{Vorlage}}"),
            page(6, "x" * (MAX_CHARACTERS + 1)),
            page(7, "Text"),
        ),
    )
    assert not error
    assert [record.reason for record in found if isinstance(record, Broken)] == [
        "redirect: Ziel",
        "redirect: Altes Ziel#Abschnitt",
        "namespace: 1",
        "model: json",
        "no_text",
        f"markup: {MAX_CHARACTERS + 1} characters, more than {MAX_CHARACTERS}",
    ]
    assert [record.id for record in found if isinstance(record, Document)] == ["wiki.xml#7"]


def test_compressed_multistream_utf16_and_a_dump_without_siteinfo(tmp_path: Path) -> None:
    streams = [HEAD, page(1, "eins"), page(2, "zwei"), "</mediawiki>"]
    multistream = b"".join(bz2.compress(part.encode()) for part in streams)
    assert ids(read(tmp_path, multistream, "a.xml.bz2")[0]) == ["1", "2"]
    assert ids(read(tmp_path, gzip.compress(dump(page(3, "drei"))), "b.xml.gz")[0]) == ["3"]
    assert ids(read(tmp_path, dump(page(4, "vier")).decode().encode("utf-16"), "c.xml")[0]) == ["4"]
    (bare,), error = read(tmp_path, f"<mediawiki>{page(5, '[[File:x.png]] fünf')}</mediawiki>".encode(), "d.xml")
    assert not error
    assert isinstance(bare, Document)
    assert (bare.text, bare.url, "language" in bare.metadata) == (" fünf".strip(), "", False)


def test_of_several_revisions_the_last_counts(tmp_path: Path) -> None:
    old, new = page(1, "alt"), page(1, "neu")
    both = old.replace("</revision>", "</revision>" + new[new.index("<revision>") : new.index("</page>")])
    (found,), _ = read(tmp_path, dump(both))
    assert isinstance(found, Document)
    assert found.text == "neu"


def test_what_was_read_before_damage_stays(tmp_path: Path) -> None:
    pages = [page(number, f"Text {number} " * 2000) for number in range(1, 9)]
    whole = dump(*pages)
    found, error = read(tmp_path, whole[: whole.index(b"<id>6</id>")])
    assert ids(found) == ["1", "2", "3", "4", "5"]
    assert "line " in error
    found, error = read(tmp_path, whole.replace(b"<id>4</id>", b"<id>4</di>"), "malformed.xml")
    assert ids(found) == ["1", "2", "3"]
    assert "line 7: " in error  # three of the header, and a page a line
    packed = b"".join(bz2.compress(part.encode()) for part in (HEAD, *pages, "</mediawiki>"))
    found, error = read(tmp_path, packed[:-60], "cut.xml.bz2")
    assert ids(found) == ["1", "2", "3", "4", "5", "6", "7", "8"][: len(found)]
    assert len(found) >= 7
    assert "cut off" in error


def test_what_is_no_dump_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no element <mediawiki>" in read(tmp_path, b"<feed><doc>x</doc></feed>")[1]
    assert read(tmp_path, b"", "empty.xml")[1]
    assert "line 1" in read(tmp_path, b"plain text", "text.xml")[1]
    monkeypatch.setattr("pipelines.stages.corpus.readers.wikipedia.dump.MAX_DOCUMENT_BYTES", 100_000)
    endless = HEAD.encode() + b"<page><revision><text>" + b"x" * 300_000
    assert "no page ends in 100000 bytes" in read(tmp_path, endless, "endless.xml")[1]


def test_entities_of_a_document_type_are_not_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE mediawiki [<!ENTITY a "xxxxxxxxxx"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    data = (bomb + HEAD + page(1, "eins").replace("eins", "eins &b;") + "</mediawiki>").encode()
    found, _ = read(tmp_path, data)
    assert not any("xxx" in record.text for record in found if isinstance(record, Document))


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Fett''', ''kursiv'', '''''beides''''', l'''''eau''''', f'(x)", "Fett, kursiv, beides, leau, f'(x)"),
        ("[[Haus|Häuser]]n am [[Fluss]] [[:Category:Ort]]", "Häusern am Fluss Category:Ort"),
        ("[[File:A.jpg|thumb|Ein [[Bild]]]]Text[[Category:Ort]] [[Bild:b.PNG|20px]] [[fr:Texte]]", "Text"),
        ("[https://a.de ein Verweis] [https://a.de] https://b.de/c", "ein Verweis https://b.de/c"),
        ("A{{Vorlage|x={{y}}}} ({{Lautschrift|a}}; geboren) ({{IPA|b}})", "A (geboren)"),
        ("Satz.<ref>Buch {{S.|1}}</ref> Satz<ref name=a />.<references/>", "Satz. Satz."),
        ("vor\n{| class=a\n|-\n| b || {{c}}\n{|\n| innen\n|}\n|}\nnach <table><tr><td>x</table>", "vor\n\nnach"),
        ("a<!-- {{ nie [[ -->b\n<!-- eine Zeile -->\nc <!-- bis zum Ende", "ab\nc"),
        ("a <score>{ {{ \\new Staff [[ }</score> b<gallery>\nDatei:A.jpg|c [[d\n</gallery>\n[[e]]", "a b\ne"),
        ("<math>x_1^{2}</math>, <ce>H2O</ce>", r"$x_1^{2}$, $\ce{H2O}$"),
        ("<nowiki>'''[[x]]''' {{y}} &lt;</nowiki>", "'''[[x]]''' {{y}} <"),
        (
            "<syntaxhighlight lang=c>\n#include <a.h>\nx = {{1}};  y\n</syntaxhighlight>",
            "#include <a.h>\nx = {{1}};  y",
        ),
        ("a&nbsp;b &mdash; &#65; &amp;lt; R&D", "a\xa0b — A &lt; R&D"),
        ("H<sub>2</sub>O<br/>neu <span style='a'>x</span> <b>y</b>", "H2O\nneu x y"),
        ("__NOTOC__ __init__  zwei", "__init__ zwei"),
        ("* a\n** b\n# c\n; d : e\n: f\n:* g\n* {{leer}}", "- a\n- b\n- c\nd : e\nf\n- g"),
        ("<ul><li>eins<li>zwei</ul>", "- eins\n- zwei"),
        ("a\n\n\n\n== B ==\nc", "a\n\nB\n\nc"),
        (
            "== A ==\n=== B ===\nb\n=== C ===\n{{c}}\n== D == <!-- d -->\nd\n== Siehe ==\n* {{e}}\n",
            "A\n\nB\n\nb\n\nD\n\nd",
        ),
        ("{{offen [[nie <b>zu {| da", "{{offen [[nie zu {| da"),
        ("a }} b ]] c </div> 1 < 2", "a }} b ]] c 1 < 2"),
        ("{{a|[[b}} c", "{{a|[[b}} c"),
        ("<div>a [[b</div> c]]", "a b c"),
        ("[[https://a.de ein Verweis]] [[c|d [https://a.de e]]]", "[ein Verweis] d e"),
        ("== kein Titel\n====\n" + "*" * 40 + " tief", "== kein Titel\n====\n- tief"),
        ("", ""),
    ],
)
def test_markup(markup: str, text: str) -> None:
    assert to_text(markup) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("up to {{convert|29029|ft|m}} high", "up to 29029 ft high"),
        (
            "{{Convert|3|to|5|km|mi|abbr=on}}, {{cvt|2|x|4|m}}, {{convert|10|-|15|sqmi}}",
            "3 to 5 km, 2 × 4 m, 10–15 sq mi",
        ),
        ("{{convert|6|ft|2|in|cm|0}}, {{convert|30|C|F}}, {{convert|7|km2}}", "6 ft 2 in, 30 °C, 7 km²"),
        ("a {{convert|10|mi|km|adj=on}} road, {{convert|3|ft|m|-long|adj=mid}}", "a 10-mi road, 3-ft-long"),
        ("{{convert|5|e6km}}, {{convert|12|/km2}}, {{convert|9|st|kg}}", "5 million km, 12/km², 9 st"),
        ("{{val|1.5|0.2|e=6|u=kg}}, {{val|3e8|ul=m|up=s}}, {{val|2|p=~|u=%}}", "(1.5±0.2)×10^6 kg, 3×10^8 m/s, ~2%"),
        (
            "{{lang|de|Haus}} {{Lang|fr|[[Seine]]}} {{template:lang|es|casa}} {{transl|ar|ALA|ilāh}}",
            "Haus Seine casa ilāh",
        ),
        (
            "({{lang-de|Haus}}), {{langx|ru|дом|dom|lit=house}}",
            "(German: Haus), Russian: дом, romanized: dom, lit. 'house'",
        ),
        ("{{nihongo|'''Tea'''|茶|cha}}; {{nihongo|Go||igo}}", "Tea (茶, cha); Go (igo)"),
        ("{{nowrap|New France}}, {{nobr|a b}}, {{small|(d)}}, {{ nowrap <!-- x --> |e}}", "New France, a b, (d), e"),
        ("15{{nbsp}}May 1900{{ndash}}1910{{snd}}x{{mdash}}y{{'s}}", "15 May 1900–1910 – x—y's"),
        ("a{{spaces|3}}b{{spaced_ndash}}c {{!}} d{{=}}e", "a b – c | d=e"),
        ("He said: {{blockquote|Go [[home]]!|A. Person|''Book''}} Then", "He said:\nGo home!\n— A. Person, Book\nThen"),
        ("{{quote|text=One.\n\nTwo.|sign=B}}", "One.\n\nTwo.\n— B"),
        ("H{{sub|2}}O, 10{{sup|6}}, {{chem|SO|4|2−}}, {{chem2|H2SO4}}, 5{{e|9}}", "H2O, 10^6, SO4^2−, H2SO4, 5×10^9"),
        (
            "10<sup>6</sup>, 10<sup>−3</sup>, x<sup>2</sup>, ''n''<sup>2</sup>, 2<sup>''n''</sup>",
            "10^6, 10^−3, x^2, n^2, 2^n",
        ),
        (
            "1<sup>st</sup>, 2<sup>e</sup>, <sup>14</sup>C, Ca<sup>2+</sup>, (a)<sup>12</sup>",
            "1st, 2e, 14C, Ca2+, (a)^12",
        ),
        ("{{math|''x'' {{=}} {{frac|1|2}}}}, {{mvar|y}}, {{frac|3}}, {{sfrac|1|3|4}}", "x = 1/2, y, 1/3, 1 3/4"),
        (
            "{{abbr|HTML|Hypertext}}, {{tooltip|a|b}}, {{ill|Name|de|Name (Ort)|lt=Er}}, {{ill|Sie|fr}}",
            "HTML, a, Er, Sie",
        ),
        (
            "{{as of|2020|lc=y}}, {{As of|2011|5|2}}; {{circa|1850}}; {{c.|1}}",
            "as of 2020, As of 2 May 2011; c. 1850; c. 1",
        ),
        (
            "{{birth date|1900|1|2}}, {{death date and age|1970|1|1|1900|1|2|df=y}}",
            "January 2, 1900, 1 January 1970 (aged 69)",
        ),
        (
            "{{start date|2001|2}}, {{USD|5 million}}, {{€|3}}, {{formatnum:12345}}",
            "February 2001, US$5 million, €3, 12345",
        ),
        ("{{hlist|a|b}}; {{ubl|c|d}}", "a · b;\nc\nd"),
        ("{{plainlist|\n* a\n* b\n}}", "- a\n- b"),
        ("{{USS|Enterprise|CV-6}}, {{flag|Peru}}, {{flagicon|Peru}} x", "USS Enterprise (CV-6), Peru, x"),
        ("{{#if:a|yes|no}} {{#ifeq:a|b|yes|no}} {{uc:abc}}", "yes no ABC"),
        ("a {{unbekannt|Wort}} b, {{unbekannt|fr|mot}} c", "a Wort b, mot c"),
        ("{{Kasten|Wort}}\n{{Hinweis|a b}}\nText", "Text"),
        ("* {{Datenbank|Wort}}\n* a", "- a"),
        ("a{{sfn|Smith|2001|p=3}} b{{rp|23}}{{efn|note}} c{{citation needed|date=May 2010}}", "a b c"),
        (
            "a{{cite book|title=T|last=L}} b{{citation|title=T|quote=q}}, {{coord|1|2|display=title}} c{{r|Smith}}",
            "a b, c",
        ),
        ("{{bekannt|x=1}} a {{nowrap|b {{sfn|c|2000}}d}}", "a b d"),
        ("10<sup>10<sup>3</sup></sup>, 2<sup>n+1</sup>, e<sup>''x''</sup>, 3<sup>rd</sup>", "10^10^3, 2^n+1, e^x, 3rd"),
        ("{{lang-zh|s=网|t=網}}, {{zh|s=网|labels=no}}", "simplified Chinese: 网; traditional Chinese: 網, 网"),
        ("10<sup>(−1/slope)</sup>, 10<sup>6–8</sup>, 10<sup>6 to 8</sup>", "10^(−1/slope), 10^6–8, 10^(6 to 8)"),
        ("3{{frac|1|2}}, 5{{1/2}}, {{frac|3|1|2}}, a{{frac|1|2}}", "3 1/2, 5 1/2, 3 1/2, a1/2"),
        (
            "{{ship|HMS|Victory}}, {{ship|USS|Enterprise|CV-6}}, {{ship||Titanic}}",
            "HMS Victory, USS Enterprise (CV-6), Titanic",
        ),
        ("{{currency|5|EUR}}, {{1/2}}, {{langx}}{{as of}}{{birth date}}{{convert}}{{ill}}x", "€5, 1/2, x"),
        ("SO<sub>4</sub><sup>2−</sup>, Ca<sup>2+</sup>, {{AD|100}}, {{Mme}} X", "SO4^2−, Ca2+, AD 100, Mme X"),
        ("{{subst:lang|de|a}} {{T:lang|de|b}} {{nowrap|x\n* y}}", "a b x\n- y"),
        ("{{lang|fr|[[a|b]]<ref>c</ref> <!-- d -->e}} {{nowrap|{{lang|de|{{small|x}}}}}}", "b e x"),
    ],
)
def test_templates_that_stand_for_words_keep_them(markup: str, text: str) -> None:
    assert to_text(markup) == text


@pytest.mark.parametrize(
    ("language", "markup", "text"),
    [
        ("fr", "10{{e|6}} au {{XXe siècle}}, {{IIe siècle av. J.-C.}}", "10^6 au XXe siècle, IIe siècle av. J.-C."),
        ("fr", "{{Lien|langue=en|trad=Article|fr=Nom}}, {{Ier siècle}}", "Nom, Ier siècle"),
        ("fr", "{{unité|12|km}}, {{unité|5|m|2}}, au {{s|XIX|e}}, XX{{e}}", "12 km, 5 m^2, au XIXe siècle, XXe"),
        (
            "fr",
            "Il dit {{citation|oui}} {{date|2|janvier|1900}} {{lien|langue=en|Nom}}",
            "Il dit « oui » 2 janvier 1900 Nom",
        ),
        ("de", 'Er {{"|Ja}} sagte {{lang|en|yes}} ({{enS|no}})', "Er\nJa\nsagte yes (no)"),
        ("es", "{{unidad|12|km}} en el {{siglo|XIX}}", "12 km en el siglo XIX"),
        ("zh", "生于{{birth date|1900|1|2}}，{{link-en|条目|Article}}和{{le|甲|A|乙}}", "生于1900年1月2日，条目和乙"),
        ("ja", "{{読み仮名|東京|とうきょう}}と{{仮リンク|名前|en|Name|label=表示}}", "東京 (とうきょう)と表示"),
        ("ru", "{{s|12 км}}, {{lang-en|word}}, {{нп5|Статья|показано|en|Article}}", "12 км, word, показано"),
    ],
)
def test_templates_of_other_wikipedias(language: str, markup: str, text: str) -> None:
    assert to_text(markup, language=language) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("-{zh-hans:软件; zh-hant:軟體;}-", "软件"),
        ("-{zh-tw:軟體;zh-cn:软件}-与-{zh:程序}-", "软件与程序"),
        ("-{不转}-，-{R|原; 文}-，-{A|zh-hant:網;zh-hans:网}-，-{zh-hans;zh-hant|字}-", "不转，原; 文，网，字"),
        ("-{T|zh-cn:题;zh-tw:題}-甲-{H|zh-cn:乙;zh-tw:丙}-丁-{-|zh-cn:戊}-", "甲丁"),
        ("-{zh-cn:[[计算机|电脑]]; zh-tw:[[電腦]]}- [[-{zh-hans:网;zh-hant:網}-|看]]", "电脑 看"),
        ("-{zh-cn:外-{zh-cn:内;zh-tw:內}-{{nowrap|x}}; zh-tw:-{zh-tw:乙;zh-cn:丙}-}-", "外内x"),
        ("-{巨集=>zh-cn:宏}-，-{zh-hans:a&nbsp;b; zh-hant:c}-", "宏，a\xa0b"),
        ("-{sr-el:reč; sr-ec:реч}- -{sr-latn:x}-", "реч x"),
        ("{{nowrap|-{zh-cn:网;zh-tw:網}-}} <nowiki>-{zh-cn:a}-</nowiki> 1-{{nowrap|2}}-3", "网 -{zh-cn:a}- 1-2-3"),
        ("-{offen {{nowrap|a}} }- b }- c -{", "offen a  b }- c -{"),
        ("-{}-空", "空"),
    ],
)
def test_of_several_writings_one_is_text(markup: str, text: str) -> None:
    assert to_text(markup) == text


VALUES = (
    "",
    "1",
    "x",
    "to",
    "km",
    "1900",
    " 3 ",
    "\n* a",
    "²",
    "٣",
    "13",
    "zh-cn",
    "½",
    "text=q",
    "u=m",
    "adj=mid",
    "1=",
)


@pytest.mark.parametrize("language", ["en", "fr", "zh"])
def test_no_template_breaks_a_page_whatever_its_values(language: str) -> None:
    for number, name in enumerate(sorted(TEXTS)):
        for count in range(7):
            values = [VALUES[(number + count * step * step) % len(VALUES)] for step in range(1, count + 1)]
            text = to_text(f"vorher {{{{{'|'.join([name, *values])}}}}} nachher", language=language)
            assert text.startswith("vorher")
            assert text.endswith("nachher")
            assert not set(text) & MARKS_INSIDE, (name, values)


def test_names_of_the_dumps_own_namespaces_are_known(tmp_path: Path) -> None:
    (found,), _ = read(tmp_path, dump(page(1, "[[Datei:x|mini]] da [[kategorie:Ort]] [[Star Wars: A]]")))
    assert isinstance(found, Document)
    assert found.text == "da Star Wars: A"


def test_arguments_of_templates_stay_where_asked_for(tmp_path: Path) -> None:
    markup = "Die {{lang|fr|[[Seine]]}} fließt.\n{{Kasten\n| Länge = 777 km\n| Ort = {{ort|Paris}}\n}}\n<ref>r</ref>"
    (found,), _ = read(tmp_path, dump(page(1, markup)), templates=True)
    assert isinstance(found, Document)
    assert found.text == "Die fr Seine fließt.\n777 km\nParis"


ENDLESS = (
    "{{a|",
    '<b a="',
    "{{a|[[b|<i>",
    "<ref>a ",
    "<math>",
    "<!--",
    "{|\n|{{a|[[b|\n",
    "*",
    "[http://a ",
    "== a ",
    "{{nowrap|",
    "-{",
    "-{A|zh-cn:",
    "{{quote|{{lang|de|",
)
CROSSED = (
    "{{a [[b }} c ]] ",
    "<b><table></b>",
    "<b>\n== </b>",
    "<b>=={{\n{|&amp;</b>",
    "<i>[http://a </i>",
    "({{a}}",
    "a{{b|c}}",
    "-{zh-cn:a;zh-tw:b}-",
    "<sup></sup>",
    "-{{{lang|de|}-}}",
    "-{a;}- }-",
)
MARKS = (
    "{{",
    "{{quote|",
    "{{sup|",
    "{{convert|",
    "-{",
    "}-",
    "zh-cn:",
    "}}",
    "[[",
    "]]",
    "{|",
    "|}",
    "|",
    "=",
    "\n",
    "<b>",
    "</b>",
    "<ref>",
    "</ref>",
    "<!--",
    "-->",
    "''",
    "*",
    "a",
)


@pytest.mark.parametrize("unit", ENDLESS + CROSSED)
def test_no_mark_takes_longer_than_its_length(unit: str) -> None:
    start = time.process_time()
    to_text(unit * (30_000 // len(unit)))
    assert time.process_time() - start < 5  # a tenth of a second; many seconds, for a parser without precautions


@pytest.mark.parametrize(
    "mark",
    ["[[news:x", "[[https://x", "[[ [[//x ", "{{a|", "{{{a|", "[[a|", "<b>", "{{nowrap|", "{{lang|de|", "-{zh-cn:"],
)
@pytest.mark.parametrize("templates", [False, True])
def test_no_depth_takes_longer_than_its_length(mark: str, templates: bool) -> None:
    start = time.process_time()
    to_text(mark * 2000 + {"[": "]]", "{": "}}", "<": "</b>", "-": "}-"}[mark[0]] * 4000, templates=templates)
    assert time.process_time() - start < 5


@settings(max_examples=150)
@given(st.lists(st.sampled_from(MARKS)))
def test_any_mixture_of_marks_becomes_text(pieces: list[str]) -> None:
    text = to_text(" ".join(pieces))
    assert not set(text) & MARKS_INSIDE
    assert "\n\n\n" not in text


@settings(max_examples=100)
@given(st.text(st.characters(categories=("L", "N"), exclude_characters="\x85"), min_size=1))
def test_plain_words_stay_as_they_are(text: str) -> None:
    assert to_text(f"{text} {text}") == f"{text} {text}"


@pytest.mark.heavy
def test_published_dumps() -> None:
    folder = SHARED_DATA / "redpajama_like" / "wikidump"
    if not folder.exists():
        pytest.skip("../shared/data/redpajama_like/wikidump is missing")
    source = WikipediaSource(path=str(folder))
    counts: dict[str, Counter[str]] = {}
    for file in source.list_files():
        found = list(source.read(file))
        counts[file.name[:12]] = Counter("" if isinstance(f, Document) else f.reason.split(":")[0] for f in found)
        for document in (f for f in found if isinstance(f, Document)):
            prose = re.sub(r"\$.*?\$", "", document.text, flags=re.DOTALL)  # TeX has braces of its own
            left = [mark for mark in ("{{", "[[", "<ref", "'''", "{|", "\x01", "\x02") if mark in prose]
            assert not left, (document.metadata["title"], left)
            assert document.url or "table-markup" in file.name
    assert counts == {
        "enwiki-lates": Counter({"": 106, "redirect": 100}),
        "bgwiki-lates": Counter({"": 1, "namespace": 2}),
        "enwiki-table": Counter({"": 5}),
    }
