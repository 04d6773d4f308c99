"""English words as spaCy's rule-based tokenizer (3.8, blank `en`) finds them; the published rules are counted in them.

The algorithm is Honnibal's: a run without blanks loses punctuation at both ends, piece by piece, until an exception is
left (`don't`, `Mr.`, `:)`); what remains is a web address, or is split at infixes. The rules look at one run alone, so
that `words.py` can remember each run. The classes of letters and symbols follow Unicode where spaCy lists its own; they
differ in other scripts only.
"""

from __future__ import annotations

import re
import unicodedata

_SYMBOL_RANGES = ((0xA6, 0x3400), (0x4DC0, 0x4E00), (0xA490, 0xAB00), (0xFDFD, 0xFFFE))  # where category So has members
_SYMBOLS = "\U0001d000-\U0001d3ff\U0001f000-\U0001faff" + "".join(
    chr(c) for low, high in _SYMBOL_RANGES for c in range(low, high) if unicodedata.category(chr(c)) == "So"
)
_CASED_RANGES = (
    *((0x41, 0x5B), (0x61, 0x7B), (0xC0, 0xD7), (0xD8, 0xF7), (0xF8, 0x1C0), (0x1C4, 0x2B0), (0x386, 0x52F)),
    *((0x1D00, 0x1D26), (0x1D6B, 0x1D78), (0x1D79, 0x1D9B), (0x1E00, 0x1F00), (0x2C60, 0x2C80), (0xA722, 0xA788)),
    *((0xA78B, 0xA7BA), (0xAB30, 0xAB65), (0xFF21, 0xFF3B), (0xFF41, 0xFF5B)),
)
_CASED = [chr(c) for low, high in _CASED_RANGES for c in range(low, high) if chr(c).isalpha()]
_UNCASED = (
    r"\u0591-\u05f4\u0620-\u064a\u066e-\u06d5\u06e5-\u06ff\u0750-\u077f\u08a0-\u08bd\u0900-\u09ff\u0b80-\u0cff\u0d80-\u0dff"
    r"\u1100-\u137f\u2e80-\u2fdf\u2ff0-\u30ff\u31c0-\u31ef\u3200-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\ufb1d-\ufdfb"
    r"\ufe30-\ufe4f\ufe70-\ufefc\U00020000-\U0002fa1f"
)
_UPPER = "".join(c for c in _CASED if c.isupper()) + _UNCASED
_LOWER = "".join(c for c in _CASED if not c.isupper()) + _UNCASED
_ALPHA = "".join(_CASED) + _UNCASED
_PUNCTUATION = re.escape("…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪")
_QUOTES = re.escape("'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧") + "\u2329\u232a"
_CURRENCY = "$£€¥฿₠-₿﷼"
_UNITS = (
    "[kdcm]?m[²³]?|ha|µm|nm|yd|in|ft|kg|g|mg|µg|t|lb|oz|m/s|km/h|kmh|mph|hPa|Pa|mbar|mb|MB|kb|KB|gb|GB|tb|TB|T|G|M|K|%"
    "|[кдс]?м[²³]?|мм[²³]?|нм|кг|г|мг|м/с|км/ч|кПа|Па|мбар|Кб|КБ|кб|Мб|МБ|мб|Гб|ГБ|гб|Тб|ТБ"
)

_EDGES = f"—–{_PUNCTUATION}{_QUOTES}{_SYMBOLS}"  # single marks that come off at both ends
_PREFIX = re.compile(rf"[§%={_EDGES}{_CURRENCY}]|\+(?![0-9])|\.\.+|(?:US|[CA])\$").match
_SUFFIX = re.compile(
    rf"(?:……|[{_EDGES}]|['’][sS]|(?<=[0-9])(?:\+|(?:US|[CA])?[{_CURRENCY}]|{_UNITS})"
    rf"|(?:(?<=°[FfCcKk])|(?<=[0-9{_LOWER}%²\-+|.\\{_PUNCTUATION}{_QUOTES}])|(?<=[{_UPPER}][{_UPPER}]))\.)$"
).search
_SUFFIX_CHARACTERS = 8  # with what is looked at before it; rows of dots are longer
_INFIX = re.compile(
    rf"(?=[.…+\-*^,–—~:<>=/{_SYMBOLS}])(?:\.\.+|[…{_SYMBOLS}]|(?<=[0-9])[+\-*^](?=[0-9-])"
    rf"|(?<=[{_LOWER}{_QUOTES}])\.(?=[{_UPPER}{_QUOTES}])|(?<=[{_ALPHA}]),(?=[{_ALPHA}])"
    rf"|(?<=[{_ALPHA}0-9])(?:-|–|—|--|---|——|~)(?=[{_ALPHA}])|(?<=[{_ALPHA}0-9])[:<>=/](?=[{_ALPHA}]))"
).finditer
_ADDRESS = re.compile(  # after Perini's (gist dperini/729294), with an optional scheme and mailboxes
    r"(?:[\w+\-.]{2,}://)?(?:\S+(?::\S*)?@)?"
    r"(?:(?!(?:10|127)(?:\.\d{1,3}){3})(?!(?:169\.254|192\.168)(?:\.\d{1,3}){2})(?!172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2})"
    r"(?:[1-9]\d?|1\d\d|2[01]\d|22[0-3])(?:\.(?:1?\d{1,2}|2[0-4]\d|25[0-5])){2}\.(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-4])"
    rf"|(?:(?:[A-Za-z0-9\u00a1-\uffff][A-Za-z0-9\u00a1-\uffff_-]{{0,62}})?[A-Za-z0-9\u00a1-\uffff]\.)+[{_LOWER}]{{2,63}})"
    r"(?::\d{2,5})?(?:[/?#]\S*)?$"
).match

_PIECES = re.compile(rf"[§%=—–{_PUNCTUATION}{_QUOTES}]|[^§%=—–{_PUNCTUATION}{_QUOTES}]+").findall
LONG_CHARACTERS = 512

_WHOLE = r"""
\") '' <space> C++ \t \n — and/or w/o ' 's 'S ‘s ‘S 're 'd 'll ll 'em em 'nuff nuff 'bout 'cause 'Cause 'cos 'Cos 'coz
'Coz 'cuz 'Cuz ma'am Ma'am o'clock O'clock ä. ö. ü. a.m. p.m. co. e.g. E.g. E.G. i.e. I.e. I.E. v.s. vs. Adm. Ak. Ala.
Apr. Ariz. Ark. Aug. Bros. Calif. Co. Colo. Conn. Corp. D.C. Dec. Del. Dr. Feb. Fla. Ga. Gen. Gov. Ia. Id. Ill. Inc.
Ind. Jan. Jr. Jul. Jun. Kan. Kans. Ky. La. Ltd. Mar. Mass. Md. Messrs. Mich. Minn. Miss. Mo. Mont. Mr. Mrs. Ms. Mt.
N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. Ph.D. Prof. Rep. Rev. S.C. Sen. Sep. Sept. St.
Tenn. Va. Wash. Wis. :) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (;
(-; :( :-( :(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o
:-o :0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.>
<.< ._. ;_; -_- -__- v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^)
(-_-) (._.) (>_<) (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>
"""
_SUBJECTS = ("i", "you", "he", "she", "it", "we", "they")
_QUESTIONS = ("who", "what", "when", "where", "why", "how", "there")
_PLURALS = ("these", "those")
_MODALS = ("could", "might", "must", "should", "would")
_AUXILIARIES = ("ca", "do", "does", "did", "had", "may", "need", "ought", "sha", "wo")
_VERBS = ("ai", "are", "is", "was", "were", "have", "has", "dare")
_DROPPED_G = ("doin", "goin", "nothin", "nuthin", "ol", "somethin", "lovin", "havin")
_NOT_SPLIT = ("ill", "its", "hell", "shell", "shed", "were", "well", "whore")


def _contractions() -> list[tuple[str, ...]]:
    """Words and what may be tied to them, in lower case and with apostrophes."""
    tied = [("'ll",), ("'ll", "'ve"), ("'d",), ("'d", "'ve")]
    split = [(word, *ends) for word in [*_SUBJECTS, *_QUESTIONS, "that", "this", *_PLURALS] for ends in tied]
    split += [("i", "'m"), ("i", "'m", "a")]
    split += [(word, "'ve") for word in ["i", "you", "we", "they", *_QUESTIONS, *_PLURALS, *_MODALS]]
    split += [(word, "'re") for word in ["you", "we", "they", *_QUESTIONS, *_PLURALS]]
    split += [(word, "'s") for word in ["he", "she", "it", *_QUESTIONS, "that", "this"]]
    split += [(verb, "n't") for verb in [*_MODALS, *_AUXILIARIES, *_VERBS]]
    split += [(verb, "n't", "'ve") for verb in [*_MODALS, *_AUXILIARIES]]
    return split


def _exceptions() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {word: (word,) for word in _WHOLE.split()}
    found.update((f"{letter}.", (f"{letter}.",)) for letter in "abcdefghijklmnopqrstuvwxyz")
    for word in _DROPPED_G:
        for form in (word, f"{word}'", word.title(), f"{word.title()}'"):
            found[form] = (form,)
    for first, *rest in _contractions():
        for parts in ((first, *rest), (first.title(), *rest)):
            bare = tuple(part.replace("'", "") for part in parts)
            found["".join(parts)] = parts
            found["".join(bare)] = bare
    for first, second in [("not", "'ve"), ("can", "not"), ("gon", "na"), ("got", "ta"), ("let", "'s"), ("c'm", "on")]:
        for parts in ((first, second), (first.capitalize(), second)):
            found["".join(parts)] = parts
    found |= {"notve": ("not", "ve"), "Notve": ("Not", "ve"), "y'all": ("y'", "all"), "yall": ("y", "all")}
    found |= {"how'd'y": ("how", "'d", "'y"), "How'd'y": ("How", "'d", "'y")}
    found |= {f"{h}{half}": (str(h), half) for h in range(1, 13) for half in ("am", "pm", "a.m.", "p.m.")}
    found |= {f"°{scale}.": ("°", scale, ".") for scale in "cfkCFK"}
    for word in _NOT_SPLIT:
        found.pop(word, None)
        found.pop(word.title(), None)
    found |= {key.replace("'", "’"): tuple(part.replace("'", "’") for part in parts) for key, parts in found.items()}
    return found


_EXCEPTIONS = _exceptions()


def _suffix(run: str, start: int) -> int:
    """Characters of the punctuation at the end of a run, which begins at `start`."""
    if run.endswith(".."):
        return min(len(run) - start, len(run) - len(run.rstrip(".")))
    match = _SUFFIX(run, max(start, len(run) - _SUFFIX_CHARACTERS))
    return len(run) - match.start() if match else 0


def _affixes(run: str, exceptions: dict[str, tuple[str, ...]]) -> tuple[list[str], str, list[str]]:
    """Punctuation taken from the front, what is left, and punctuation taken from the end (outermost first)."""
    front: list[str] = []
    back: list[str] = []
    while run and run not in exceptions:
        prefix = match.end() if (match := _PREFIX(run)) else 0
        if prefix and run[prefix:] in exceptions:
            front.append(run[:prefix])
            return front, run[prefix:], back
        suffix = _suffix(run, prefix)
        if suffix and run[:-suffix] in exceptions:
            back.append(run[-suffix:])
            return front, run[:-suffix], back
        if not prefix and not suffix:
            break
        if prefix:
            front.append(run[:prefix])
        if suffix:
            back.append(run[-suffix:])
        run = run[prefix : len(run) - suffix]
    return front, run, back


def _split(run: str, exceptions: dict[str, tuple[str, ...]]) -> list[str]:
    words, run, back = _affixes(run, exceptions)
    if run in exceptions:
        words += exceptions[run]
    elif "." in run and _ADDRESS(run):
        words.append(run)
    elif run:
        start = 0
        for infix in _INFIX(run):
            if infix.start() > 0:
                words += [run[start : infix.start()]] if infix.start() > start else []
                words.append(infix[0])
                start = infix.end()
        words += [run[start:]] if start < len(run) else []
    words += reversed(back)
    return words


# Exceptions that the affixes take apart are put together again wherever their parts stand side by side: `Mr` `.`
_APART = {
    tuple(_split(word, {})): parts
    for word, parts in _EXCEPTIONS.items()
    if _PREFIX(word) or _suffix(word, 0) or any(_INFIX(word))
}
_FIRST = {parts[0] for parts in _APART}
_LONGEST = max(map(len, _APART))


def _rejoin(words: list[str]) -> list[str]:
    spans = [
        (start, start + length)
        for start, word in enumerate(words)
        if word in _FIRST
        for length in range(1, min(_LONGEST, len(words) - start) + 1)
        if tuple(words[start : start + length]) in _APART
    ]
    taken: set[int] = set()
    chosen: dict[int, int] = {}
    for start, end in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):  # longest first
        if start not in taken and end - 1 not in taken:
            chosen[start] = end
        taken.update(range(start, end))
    joined: list[str] = []
    position = 0
    while position < len(words):
        end = chosen.get(position, 0)
        joined += _APART[tuple(words[position:end])] if end else (words[position],)
        position = end or position + 1
    return joined


def split_run(run: str) -> tuple[str, ...]:
    """The words of a run of characters without blanks; together they are the run.

    Runs of over `LONG_CHARACTERS` (data, rulers, scripts without blanks) are split at every mark instead, since the
    time that the rules take grows with the square of the length.
    """
    if len(run) > LONG_CHARACTERS:
        return tuple(_PIECES(run))
    if run in _EXCEPTIONS:
        return _EXCEPTIONS[run]
    if run.isascii():  # most runs that are new: a word, or a word and one mark
        if run.isalpha():
            return (run,)
        stem, mark = run[:-1], run[-1]
        if stem.isalpha() and stem not in _EXCEPTIONS and (mark in ",;:?!)" or (mark == "." and stem[-1].islower())):
            return (stem, mark)
    words = _split(run, _EXCEPTIONS)
    return tuple(_rejoin(words) if not _FIRST.isdisjoint(words) else words)
