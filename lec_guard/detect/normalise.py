"""What a text goes through before it is cut into tokens, and how to get back.

Attackers write so that a model understands them and a detector does not. The detector therefore reads a text
twice where it pays: as it is, and as it is meant. The list of what is undone, in this order, up to three times
over (an encoding may hold another one):

| what | becomes |
|---|---|
| Unicode tags (U+E0020…E007E) | the ASCII that they stand for |
| four or more variation selectors in a row | the bytes that they stand for, where these are text |
| zero-width, bidi and other invisible characters, and marks stacked on ASCII letters | nothing |
| full-width, mathematical, circled, squared and regional-indicator letters and digits | plain ones (NFKC) |
| Cyrillic, Greek, Armenian and Cherokee look-alikes in Latin words | the Latin letters |
| emoji | their Unicode names, one for several of a kind in a row |
| base64, hex, percent and backslash escapes, HTML entities | what they decode to, where that is text |
| spaced or dotted letters (`i g n o r e`, `i.g.n.o.r.e`) | words, also where nothing marks the end of one |
| leet in two words or more (`1gn0r3 pr3v10us`), and numbers that are short words beside it (`45 4`) | letters |
| a sentence that is cut into the short items of a list (`1. Ignore all` / `2. previous rules`) | one line |
| stretches in rot13 or reversed | English, where that is what comes out |

A text that has none of these is read once. The character classes follow Unicode's Default_Ignorable_Code_Point and
confusables (UTS #39); the look-alikes are those of letters that are drawn alike in common fonts.
"""

from __future__ import annotations

import base64
import binascii
import bisect
import codecs
import functools
import html
import itertools
import re
import string
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lec_guard.detect import kinds
from lec_guard.detect.words import is_word, split

VERSION = "4"
"""Part of the extractor's id: heads fitted under one normaliser don't fit another."""

DEEPEST = 3
"""How many layers of encoding are undone."""


@dataclass(frozen=True, slots=True)
class View:
    """A text as it is meant, with the way back to the text as it is.

    Attributes:
        text: What is read.
        edits: The edits of each pass, in the order in which they were made.
    """

    text: str
    edits: tuple[Edits, ...] = ()

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where a part of the view comes from.

        Args:
            start: First character of the part.
            end: One past its last character.

        Returns:
            The same for the original text; a part of a decoded run maps to the whole run.
        """
        for edits in reversed(self.edits):
            start, end = edits.back(start, end)
        return start, end


@dataclass(frozen=True, slots=True)
class Edit:
    """A replacement of `[start, end)` of a text."""

    start: int
    end: int
    replacement: str


class Edits:
    """Replacements that one pass made, for mapping offsets back.

    Args:
        edits: In order, not overlapping.
    """

    def __init__(self, edits: list[Edit]) -> None:
        self._source = [(edit.start, edit.end) for edit in edits]
        self._target: list[tuple[int, int]] = []
        shift = 0
        for edit in edits:
            begin = edit.start + shift
            self._target.append((begin, begin + len(edit.replacement)))
            shift += len(edit.replacement) - (edit.end - edit.start)
        self._begins = [begin for begin, _ in self._target]

    def back(self, start: int, end: int) -> tuple[int, int]:
        """Offsets after the edits -> offsets before them."""
        return self._position(start, at_end=False), self._position(end, at_end=True)

    def _position(self, position: int, *, at_end: bool) -> int:
        # An end belongs to the character before it, a start to the one after.
        i = (
            bisect.bisect_left(self._begins, position) - 1
            if at_end
            else bisect.bisect_right(self._begins, position) - 1
        )
        if i < 0:
            return position
        (source_start, source_end), (_, target_end) = self._source[i], self._target[i]
        if position < target_end or (at_end and position == target_end):
            return source_end if at_end else source_start
        return position - target_end + source_end


def readable(text: str) -> str:
    """Make a text fit for the tokenizer, character for character.

    A lone surrogate has no UTF-8 form, and the tokenizer refuses a whole text for one; each becomes U+FFFD.

    Args:
        text: Any Python string.

    Returns:
        A string of the same length that can be encoded.
    """
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def meant(text: str) -> View | None:
    """Undo what the list above names.

    Args:
        text: A readable text.

    Returns:
        The text as it is meant, or None where that is the text as it is.
    """
    view = View(text)
    for _ in range(DEEPEST):
        before = view.text
        for spell in _PASSES if before.isascii() else _FOREIGN_PASSES + _PASSES:
            edits = list(spell(view.text))
            if edits:
                view = View(_applied(view.text, edits), (*view.edits, Edits(edits)))
        if view.text == before or not _may_nest(view.text):
            break
    return view if view.text != text else None


def _applied(text: str, edits: list[Edit]) -> str:
    parts, at = [], 0
    for edit in edits:
        parts += [text[at : edit.start], edit.replacement]
        at = edit.end
    return "".join([*parts, text[at:]])


def _may_nest(text: str) -> bool:
    """Whether another round could find anything; a cheap no saves most second rounds."""
    return not text.isascii() or any(_encoded(text)) or _SPACED.search(text) is not None


# --- invisible characters

_SURROGATE = re.compile("[\ud800-\udfff]")
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
_BLACK_FLAG = "\U0001f3f4"
_NATIONS = ("gbeng", "gbsct", "gbwls")
"""What tags after a black flag make a flag of: England, Scotland and Wales."""
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f"
    "\U000e007f-\U000e0fff]+"
)
_MEANINGFUL = re.compile(
    # What emoji are made of and what Hebrew, Arabic and Indic scripts are spelt with, where it stands in no other
    # word; the same after a keycap's digit; the end of the flag of a nation.
    "(?<![^\\W\u0590-\u0dff])[\u061c\u200c-\u200f\ufe0f]+|(?<=[0-9])\ufe0f(?=\u20e3)|(?<=[\U000e0020-\U000e007e])\U000e007f"
)
_MARKS = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f]"
_STACKED = re.compile(f"{_MARKS}(?<=[A-Za-z].){_MARKS}*")
"""After a letter. What is rare comes first here and below, because a search for that is over sooner."""


def _tags(text: str) -> Iterator[Edit]:
    for run in _TAGS.finditer(text):
        decoded = _untagged(run)
        if decoded not in _NATIONS or text[run.start() - 1 : run.start()] != _BLACK_FLAG:
            yield Edit(run.start(), run.end(), decoded)


def _untagged(run: re.Match[str]) -> str:
    return "".join(chr(ord(c) - 0xE0000) for c in run.group())


def _selectors(text: str) -> Iterator[Edit]:
    for run in _SELECTORS.finditer(text):
        values = bytes(ord(c) - 0xFE00 if ord(c) < 0xFF00 else ord(c) - 0xE0100 + 16 for c in run.group())
        decoded = _text_of(values)
        yield Edit(run.start(), run.end(), f" {decoded} " if decoded else "")


def _invisible(text: str) -> Iterator[Edit]:
    for run in _INVISIBLE.finditer(text):
        kept = _MEANINGFUL.match(text, run.start())
        if kept is None or kept.end() < run.end():
            yield Edit(run.start(), run.end(), "")


def _stacked(text: str) -> Iterator[Edit]:
    """A letter with marks that is one character when composed is how some languages are written."""
    for run in _STACKED.finditer(text):
        if len(run.group()) > 2 or len(unicodedata.normalize("NFC", text[run.start() - 1 : run.end()])) > 1:
            yield Edit(run.start(), run.end(), "")


# --- other letters for the same letters

_FOREIGN = re.compile("[^\x00-\x7f]+")
_WORD = re.compile(r"[^\W\d_]+")
_LOOKALIKES = dict(
    zip(
        "авсԁеѐёгһіїјкӏмոпорԛгѕтᴛуѵԝхүАВСЕНІЈКМОРԚЅТУѴԜХΑΒΕΖΗΙΚΜΝΟΡΤΥΧαεικνορτυχγωհսօցքԱՍՏᎪᏴᏟᎬᎻᎥᎫᏦᏞᎷᏢᏚᎢᏙᏔᏃɑɡıℓ",
        "abcdeeerhiijklmnnopqrsttyvwxyABCEHIJKMOPQSTYVWXABEZHIKMNOPTYXaeikvoptuxywhuogpAUSABCEHiJKLMPSTVWZagil",
        strict=True,
    )
)
_LOOKALIKE = re.compile(f"[{''.join(_LOOKALIKES)}]")

_FEWEST_BADGES = 4
_COUNTRIES = frozenset(
    re.findall(
        "[A-Z]{2}",
        "AC AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW "
        "BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CP CR CU CV CW CX CY CZ DE DG DJ DK DM DO DZ EA EC EE EG EH ER ES "
        "ET EU FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU IC ID IE "
        "IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC "
        "MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE "
        "PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV "
        "SX SY SZ TA TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM UN US UY UZ VA VC VE VG VI VN VU WF WS "
        "XK YE YT ZA ZM ZW ",
    )
)


def _compatible(text: str) -> Iterator[Edit]:
    """Where some of them are words; one alone is mathematics, a list's number or a flag."""
    places = [at for run in _FOREIGN.finditer(text) for at in range(*run.span()) if _is_styled(text[at])]
    runs = list(_together(places))
    words = [run for run in runs if not _is_flags(text[run[0] : run[-1] + 1])]
    badges = sum(len(run) for run in words if _is_badge(text[run[0]]))
    if badges >= _FEWEST_BADGES or any(len(run) >= 3 or _is_inside_word(text, run) for run in words):
        for run in runs:
            for at in run:
                yield Edit(at, at + 1, _plain(text[at]))


def _together(places: list[int]) -> Iterator[list[int]]:
    """Places -> runs of places that follow each other."""
    for _, run in itertools.groupby(enumerate(places), lambda pair: pair[1] - pair[0]):
        yield [at for _, at in run]


def _is_styled(char: str) -> bool:
    plain = _plain(char)
    return plain != char and plain.isascii() and plain.isalnum()


def _is_badge(char: str) -> bool:
    """A circled, squared or regional-indicator letter: people write them with spaces between."""
    return unicodedata.category(char) == "So" and _plain(char).isalpha()


def _is_inside_word(text: str, run: list[int]) -> bool:
    """Not powers, indices, ordinals and trade marks, which follow letters, too."""
    first, last = text[run[0]], text[run[-1]]
    if unicodedata.decomposition(first).startswith(("<super>", "<sub>")) or not _plain(first).isalpha():
        return False
    before, after = text[run[0] - 1 : run[0]], text[run[-1] + 1 : run[-1] + 2]
    return before.isalnum() or (after.isalnum() and _plain(last).isalpha())


def _is_flags(run: str) -> bool:
    letters = "".join(chr(ord(c) - 0x1F1E6 + ord("A")) if 0x1F1E6 <= ord(c) <= 0x1F1FF else "-" for c in run)
    return len(letters) % 2 == 0 and all(letters[at : at + 2] in _COUNTRIES for at in range(0, len(letters), 2))


@functools.lru_cache(maxsize=4096)
def _plain(char: str) -> str:
    point = ord(char)
    if 0x1F150 <= point <= 0x1F189:  # circled and squared capitals on black, which NFKC leaves alone
        return chr(ord("A") + (point - 0x1F150) % 32)
    if 0x1F1E6 <= point <= 0x1F1FF:  # regional indicators
        return chr(ord("a") + point - 0x1F1E6)
    return unicodedata.normalize("NFKC", char)


def _lookalikes(text: str) -> Iterator[Edit]:
    """In words that mix scripts; and in words of nothing but look-alikes, where the text is mostly Latin.

    Beside a mixed word, these may be of one or two letters.
    """
    if not _LOOKALIKE.search(text):
        return
    letters = [c for c in text if c.isalpha()]
    latin = sum(c.isascii() for c in letters) * 2 > len(letters)
    words = [word for word in _WORD.finditer(text) if not word.group().isascii()]
    mixed = [any(c.isascii() for c in word.group()) and any(c in _LOOKALIKES for c in word.group()) for word in words]
    shortest = 1 if any(mixed) else 3
    for word, is_mixed in zip(words, mixed, strict=True):
        found = word.group()
        if is_mixed or (latin and len(found) >= shortest and all(c in _LOOKALIKES for c in found)):
            for at, char in enumerate(found, word.start()):
                if char in _LOOKALIKES:
                    yield Edit(at, at + 1, _LOOKALIKES[char])


_EMOJI = re.compile(
    "(?P<one>[\u2620\u270a-\u270d\u2764\U0001f300-\U0001f3f3\U0001f3f5-\U0001f3fa\U0001f400-\U0001f64f\U0001f680-\U0001f6ff\U0001f900-\U0001faff])"
    "(?:[\u200d\ufe0f\U0001f3fb-\U0001f3ff]|(?P=one))*+"
)
"""Pictures of things, faces and hands: a small model has no token for most, and some say what a word would say."""


def _emoji(text: str) -> Iterator[Edit]:
    for run in _EMOJI.finditer(text):
        if name := unicodedata.name(run["one"], "").lower():
            before = "" if text[run.start() - 1 : run.start()].isspace() or run.start() == 0 else " "
            after = "" if text[run.end() : run.end() + 1].isspace() or run.end() == len(text) else " "
            yield Edit(run.start(), run.end(), f"{before}{name}{after}")


_APOSTROPHE = re.compile(r"(?<=[^\W\d_]['\u2019])")
_SPACED = re.compile(r"(?<![^\W_])[^\W\d_]([ .\-_*|·/~+])(?:[^\W\d_]\1){2,}[^\W\d_](?![^\W_])")
_SPACING = kinds.table({"a": "?" + "".join(re.findall(r"[^\W\d_]", kinds.LATIN)), ".": " .-_*|·/~+"})
"""Letters, as which those of other scripts are seen too, and marks."""

_MARKED = "  "
"""Two spaces beside spaced letters mark the end of a word."""
_LONG_WORD = 12
"""Letters in a row that are more than this are looked through for words even so."""
_ENDINGS = ("s", "t", "d", "m", "ll", "re", "ve")
"""What follows an apostrophe."""


def _spaced(text: str) -> Iterator[Edit]:
    """Beside a word of four spaced letters or more, shorter ones are words too, if spaced alike."""
    if b".a.a." not in kinds.seen(text, _SPACING):
        return
    marks = "".join(sorted({run.group(1) for run in _SPACED.finditer(text)}))
    if marks:
        for run in _spaced_by(marks).finditer(text):
            yield from _joined_words(text, run)


@functools.cache
def _spaced_by(marks: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_])[^\W\d_]([{re.escape(marks)}])(?:[^\W\d_]\1)*[^\W\d_](?![^\W_])")


def _joined_words(text: str, run: re.Match[str]) -> Iterator[Edit]:
    letters, mark, at = run.group()[::2], run.group(1), run.start()
    for word in _words_in(text, run, letters):
        if at > run.start() and mark != " ":
            yield Edit(at - 1, at, " ")
        end = at + 2 * len(word) - 1
        yield Edit(at, end, word)
        at = end + 1


def _words_in(text: str, run: re.Match[str], letters: str) -> list[str]:
    is_marked = text.startswith(_MARKED, run.end()) or text.endswith(_MARKED, 0, run.start())
    if len(letters) <= _LONG_WORD and (run.group(1) != " " or is_marked):
        return [letters]
    ending = ""
    if _APOSTROPHE.match(text, run.start()):
        ending = next((ending for ending in _ENDINGS if letters.lower().startswith(ending)), "")
    rest = letters[len(ending) :]
    return [*filter(None, [letters[: len(ending)]]), *((split(rest) or [rest]) if rest else [])]


_LEET = str.maketrans("013457@$", "oieastas")
_LEET_WORD = re.compile(r"(?<![\w@$.|/+=])(?=[013457@$]*+[A-Za-z])[A-Za-z013457@$]++(?![\w@$|/+=])")
_LONGEST_LEET = 24
_LEET_INSIDE = re.compile(r"[013457@$](?<=[A-Za-z].)[013457@$]?[A-Za-z]")
"""One or two between letters."""
_LEET_NUMBER = re.compile(
    # One digit with a full stop, a colon or a bracket after it counts something, and so does a line's first number.
    r"^[ \t]*\d+[.):]|(?<=[A-Za-z]['\u2019])(?P<ending>[57])(?!\w)"
    r"|(?<![^\s\"'(\[\u2018\u201c])(?P<number>[013457]{1,3})"
    r"(?=(?:(?<=\d\d)\.)?[,;!?]*[\"'\u2019\u201d]?(?:\s|$))",
    re.MULTILINE,
)
_LEET_NUMBERS = frozenset(["a", "as", "at", "i", "is", "it", "its", "see", "so", "to"])


def _leet(text: str) -> Iterator[Edit]:
    """Where two different words or more have digits between their letters: one is a product or a version.

    Where two of them are English, numbers may be words as well.
    """
    if not _LEET_INSIDE.search(text):
        return
    words = [word for word in _LEET_WORD.finditer(text) if _may_be_leet(word)]
    sure = {word.group() for word in words if _is_leet(word.group())}
    if len(sure) < 2:
        return
    found = [(word.start(), word.end()) for word in words]
    if sum(is_word(word.translate(_LEET)) for word in sure) >= 2:
        found = sorted(found + list(_leet_numbers(text)))
    for start, end in found:
        yield Edit(start, end, text[start:end].translate(_LEET))


def _may_be_leet(word: re.Match[str]) -> bool:
    """A part of something with hyphens is an identifier, if it is no word."""
    found, text = word.group(), word.string
    if len(found) > _LONGEST_LEET or found.isalpha():
        return False
    has_hyphen = "-" in (text[word.start() - 1 : word.start()], text[word.end() : word.end() + 1])
    return not has_hyphen or is_word(found.translate(_LEET))


def _is_leet(word: str) -> bool:
    if not _LEET_INSIDE.search(word):
        return False
    return sum(map(str.isalpha, word)) >= 3 or is_word(word.translate(_LEET))


def _leet_numbers(text: str) -> Iterator[tuple[int, int]]:
    for number in _LEET_NUMBER.finditer(text):
        if number["ending"] or (number["number"] and number.group().translate(_LEET) in _LEET_NUMBERS):
            yield number.span()


# --- a sentence in a list

_ITEM = re.compile(
    r"^[ \t]*+(?:\(?(?:(?P<number>\d{1,3})|(?P<letter>[A-Za-z]))[.):]|(?P<bullet>[-*+\u2022\u2013]))[ \t]++"
    r"(?P<words>\S++(?:[ \t]++\S++){0,3}+)[ \t\r]*+$",
    re.MULTILINE,
)
"""An item of one to four words."""
_LEADS = frozenset(
    re.findall(
        "[a-z]+",
        "a about all always an and any are as at be but by can could do does every for from had has have he i if "
        "ignore into is just may must my never no not of only or other our previous prior reveal should show so such "
        "tell than that the their these they this to very was we were when where which who will with would you your",
    )
)
"""Words that want another one after them."""
_OPENING, _CLOSING = "\"'([\u2018\u201c", "\"')]\u2019\u201d"
_LINKS = frozenset(["and", "because", "but", "of", "or", "that", "which", "who"])
"""Words that want another one before them."""


def _listed(text: str) -> Iterator[Edit]:
    """Items that follow each other, where they read on: an ordinary list has a thing an item."""
    if "\n" not in text:
        return
    group: list[re.Match[str]] = []
    for item in _ITEM.finditer(text):
        if group and not _follows(group[-1], item):
            yield from _read_on(group)
            group = []
        group.append(item)
    yield from _read_on(group)


def _follows(before: re.Match[str], after: re.Match[str]) -> bool:
    if not before.string[before.end() : after.start()].isspace():
        return False
    if before["bullet"] or after["bullet"]:
        return before["bullet"] == after["bullet"]
    if before["number"] and after["number"]:
        return int(after["number"]) == int(before["number"]) + 1
    return bool(before["letter"] and after["letter"]) and ord(after["letter"]) == ord(before["letter"]) + 1


def _read_on(group: list[re.Match[str]]) -> Iterator[Edit]:
    if not _is_sentence([item["words"] for item in group]):
        return
    yield Edit(group[0].start(), group[0].start("words"), "")
    for before, after in itertools.pairwise(group):
        yield Edit(before.end("words"), after.start("words"), " ")


def _is_sentence(items: list[str]) -> bool:
    """Whether most items go on where the one before ends, and a word or the only capital says that it has to."""
    pairs = list(itertools.pairwise(items))
    going_on = sum(_goes_on(*pair) for pair in pairs)
    if going_on * 2 < len(pairs) or not any(after[:1].islower() or after.isupper() for _, after in pairs):
        return False
    if any(_last(before) in _LEADS or _first(after) in _LINKS for before, after in pairs):
        return True
    return items[0][:1].isupper() and going_on == len(pairs)


def _goes_on(before: str, after: str) -> bool:
    """In lower case, with the word I, or in capitals like what it follows; or else as a new sentence."""
    first = after.lstrip(_OPENING)[:1]
    if before.rstrip(_CLOSING)[-1:] in (".", "!", "?", ":"):
        return first.isupper()
    return first.islower() or _first(after) == "i" or (before.isupper() and after.isupper())


def _first(item: str) -> str:
    return re.split("['\u2019]", item.split()[0].strip(_OPENING))[0].lower()


def _last(item: str) -> str:
    return item.split()[-1].strip(_OPENING + _CLOSING).lower()


# --- encodings

_ENCODED = re.compile(
    r"(?P<hex>(?<![0-9A-Za-z])(?:0x)?(?:[0-9A-Fa-f]{2}[ :,]?){7,}[0-9A-Fa-f]{2}(?![0-9A-Za-z]))"
    r"|(?P<base64>(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/_-]{16,}={0,2}(?![A-Za-z0-9+/=_-]))"
    r"|(?P<percent>(?<![^\s%])[^\s%]*+(?:%[0-9A-Fa-f]{2}[^\s%]*+){3,}+)"
    r"|(?P<escape>(?:\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}){3,})"
    r"|(?P<entity>(?:&(?:\#\d{2,7}|\#x[0-9A-Fa-f]{2,6}|[A-Za-z]{2,8});(?:[ ](?=&))?){3,})"
)


_BASE64 = kinds.table({"b": f"{string.ascii_letters}{string.digits}+/_-"})
_HEX = kinds.table({"h": string.hexdigits})


def _may_be_encoded(text: str) -> bool:
    """Whether a text has what each of them has: a sign of its own three times, or a run of letters and digits."""
    return (
        any(text.count(sign) >= 3 for sign in "%\\&")
        or b"b" * 16 in kinds.seen(text, _BASE64)
        or b"h" * 16 in kinds.seen(text, _HEX, without=b" :,")
    )


def _encoded(text: str) -> Iterator[re.Match[str]]:
    if _may_be_encoded(text):
        yield from _ENCODED.finditer(text)


def _encodings(text: str) -> Iterator[Edit]:
    for run in _encoded(text):
        decoded = _DECODERS[str(run.lastgroup)](run.group())
        if not decoded or decoded == run.group():
            continue
        if sum(map(str.isalpha, decoded)) >= 4 or _TAGS.search(decoded) or _ENCODED.search(decoded):
            yield Edit(run.start(), run.end(), decoded)


def _base64(run: str) -> str | None:
    if run.isdigit() or (run.islower() and "-" in run) or run.strip("-_+/=") == "":
        return None
    padded = run.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return _text_of(base64.b64decode(padded + "=" * (-len(padded) % 4)))
    except (binascii.Error, ValueError):
        return None


def _hex(run: str) -> str | None:
    try:
        return _text_of(bytes.fromhex(re.sub("0x|[ :,]", "", run)))
    except ValueError:
        return None


def _text_of(content: bytes) -> str | None:
    """The text that bytes stand for, where they do: printable, and with letters as words have them."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    # Invisible characters are not printable, but undone in the next round.
    seen = _INVISIBLE.sub("", _TAGS.sub(_untagged, text))
    if len(seen) < 4 or not all(c.isprintable() or c in "\n\t\r" for c in seen):
        return None
    letters = sum(c.isalpha() or c == " " for c in seen)
    return text if letters * 4 >= len(seen) * 3 or _ENCODED.search(seen) else None


def _joined(text: str) -> str:
    """Pairs of surrogates become the characters that they stand for."""
    return readable(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


_DECODERS: dict[str, Callable[[str], str | None]] = {
    "base64": _base64,
    "hex": _hex,
    "percent": urllib.parse.unquote,
    "escape": lambda run: _joined(re.sub(r"\\[xu]([0-9A-Fa-f]+)", lambda m: chr(int(m[1], 16)), run)),
    "entity": html.unescape,
}

_COMMON = frozenset(
    re.findall(
        "[a-z]+",
        "a about above act again all also an and answer any are as assistant at be because been before below but "
        "by can developer do does every everything follow following for forget from has have her hidden his how i "
        "if ignore in instead instruction instructions into is it its just like me message mode more must my never "
        "new no not now of on one only or other our out over please pretend previous print prompt reveal role "
        "rules safety say secret send she should show so some system tell text than that the their them then there "
        "these they this to up use user very was we were what when where which who will with without word would "
        "write yes you your yourself",
    )
)
_BOTH_WAYS = frozenset(["saw", "won", "ton", "tub", "era", "dna"])
_COMMON_AND_LONG = frozenset(word for word in _COMMON if len(word) >= 3)
_LETTERS = re.compile(r"[A-Za-z']{2,}")
_FEWEST_HITS = 3


def _turned(text: str) -> Iterator[Edit]:
    """Stretches that say something in English only when they are turned round or by 13 letters.

    Words that are common after the turn and not before it are the landmarks; a stretch with three or more of
    them, and no gap of more than six words, reaches out on both sides to the next word that is common as it is.
    """
    if len(_TURNED_EITHER_WAY.intersection(kinds.seen(text, _LOWER).split())) < _FEWEST_HITS:
        return
    words = list(_LETTERS.finditer(text))
    plain = [word.group().lower() in _COMMON for word in words]
    found: list[Edit] = []
    for turn, turned in _TURNED.items():
        hits = [i for i, word in enumerate(words) if word.group().lower() in turned]
        done = 0
        for group in _near(hits):
            distinct = {words[i].group().lower() for i in group}
            if group[0] < done or len(distinct) < _FEWEST_HITS or distinct <= _BOTH_WAYS:
                continue
            first, last = group[0], group[-1]
            while first > done and not plain[first - 1]:
                first -= 1
            while last + 1 < len(words) and not plain[last + 1]:
                last += 1
            done = last + 1
            start, end = words[first].start(), words[last].end()
            while start > 0 and _is_sign(text[start - 1]):
                start -= 1
            while end < len(text) and _is_sign(text[end]):
                end += 1
            found.append(Edit(start, end, turn(text[start:end])))
    end = 0
    for edit in sorted(found, key=lambda edit: edit.start):
        if edit.start >= end:
            yield edit
            end = edit.end


def _is_sign(char: str) -> bool:
    return not char.isalnum() and not char.isspace()


def _near(hits: list[int]) -> Iterator[list[int]]:
    group: list[int] = []
    for hit in hits:
        if group and hit - group[-1] > 7:
            yield group
            group = []
        group.append(hit)
    if group:
        yield group


def _rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


def _reversed(text: str) -> str:
    return text[::-1]


_TURNED = {turn: frozenset(map(turn, _COMMON_AND_LONG)) - _COMMON for turn in (_rot13, _reversed)}
"""Words that are common after the turn, and not before it."""

_TURNED_EITHER_WAY = frozenset(word.encode() for words in _TURNED.values() for word in words)

_LOWER = kinds.table({char: f"{char}{char.upper()}" for char in f"{string.ascii_lowercase}'"})


_Pass = Callable[[str], Iterator[Edit]]

_FOREIGN_PASSES: tuple[_Pass, ...] = (_selectors, _tags, _invisible, _stacked, _compatible, _lookalikes, _emoji)
"""They come first, and find nothing in ASCII."""

_PASSES: tuple[_Pass, ...] = (
    _encodings,
    _spaced,
    _leet,
    _listed,
    _turned,
)
