"""What a prompt says under its disguises.

A detector that reads only the raw text loses to zero-width spaces (recall .000 measured) or
Cyrillic look-alikes; one that reads only cleaned text loses what decoding would show. So a prompt
is read as several *views*: canonical (NFKC of UAX #15, invisible characters dropped, look-alikes
mapped after the idea of UTS #39, spacing collapsed) and, wherever there is something to decode,
decoded (Base64, hexadecimal, binary, escapes, Unicode tags, reversed, rot13, leetspeak, spaced).
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import sys
import unicodedata
import urllib.parse
from dataclasses import dataclass, replace
from enum import StrEnum

from secmon_dagster.errors import InvalidInputError
from secmon_dagster.vecsec.vocabulary import Vocabulary

MAX_CHARACTERS = 4_194_304
_SAMPLE = 400  # characters that tell whether a reading makes sense
_HEAD = 4000  # reversed, rot13 and the like disguise whole prompts, so a beginning tells


class ViewKind(StrEnum):
    """How a view was made from the prompt."""

    CANONICAL = "canonical"
    BASE64 = "base64"
    HEX = "hex"
    BINARY = "binary"
    ESCAPED = "escaped"
    TAGS = "unicode_tags"
    REVERSED = "reversed"
    ROT13 = "rot13"
    LEET = "leet"
    SPACED = "spaced"


@dataclass(frozen=True)
class Disguise:
    """What had to be undone to read the prompt; all zero for plain text.

    Attributes:
        invisible: format characters (category Cf) and variation selectors dropped.
        lookalikes: letters of another script mapped to Latin ones.
        controls: control characters and broken surrogates.
        bidi: bidirectional overrides and isolates among the invisible ones.
    """

    invisible: int = 0
    lookalikes: int = 0
    controls: int = 0
    bidi: int = 0


_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_TAGS = range(0xE0020, 0xE007F)
_INVISIBLE = frozenset(
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)) == "Cf"
    or 0xFE00 <= code <= 0xFE0F
    or code in (0x34F, 0x3164)
)
_CONTROLS = frozenset(chr(code) for code in (*range(32), *range(127, 160))) - set("\t\n\r\f\v\x85")
_DROP = dict.fromkeys(map(ord, _INVISIBLE)) | dict.fromkeys(map(ord, _CONTROLS), " ")
_COMBINING = re.compile("[\u0300-\u036f]+")

# Lower-case letters of other scripts that pass for a Latin one.
_LOOKALIKES = {
    ord(letter): latin
    for latin, letters in {
        "a": "аαɑ", "b": "ьвβƅ", "c": "сϲ", "d": "ԁɗ", "e": "еεҽё", "f": "ғϝ", "g": "ɡցԍ",
        "h": "һհн", "i": "іιıɩї", "j": "јϳ", "k": "кκӄ", "l": "ӏⅼǀ", "m": "мм", "n": "пηո",
        "o": "оοօσө", "p": "рρ", "q": "ԛզ", "r": "гɾ", "s": "ѕꜱ", "t": "тτ", "u": "υսцμ",
        "v": "νѵ", "w": "ԝшωա", "x": "хχ", "y": "уүγ", "z": "ᴢʐ",
    }.items()
    for letter in letters
}  # fmt: skip
_FOREIGN = re.compile(
    "[\u0370-\u03ff\u0400-\u052f\u0530-\u058f\u0250-\u02af\u1d00-\u1d7f\ua71f-\ua7ff\u0131]"
)
_LATIN = re.compile("[a-z]")
_TOKEN = re.compile(r"\S+")
_SPACE = re.compile(r"\s+")
_REPEAT = re.compile(r"([^\w\s])\1{3,}")

_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/_-]{16,}={0,2}(?![A-Za-z0-9+/=_-])")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:(?:0x|\\x)?[0-9A-Fa-f]{2}[\s,:]?){8,}(?![0-9A-Za-z])")
_BINARY = re.compile(r"(?<![0-9A-Za-z])(?:[01]{8}[\s,]*){4,}(?![0-9A-Za-z])")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}|&#?\w{2,8};|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}")
_LEET = str.maketrans("01345789@$!|+", "oieastbgasiit")
_LEET_WORD = re.compile(r"(?=\S*[a-z])(?=\S*[013457@$!])[a-z0-9@$]+(?:[!|+][a-z0-9@$]+)*")
_LEET_ANY = re.compile(r"[a-z0-9@$]+(?:[!|+][a-z0-9@$]+)*")
_LETTER = re.compile(r"(?<!\w)\w(?!\w)")
_SEPARATOR = re.compile(r"(?<=\w)[ .\-_*/|,](?=\w)")


def sanitized(text: str) -> str:
    """``text`` with surrogate pairs joined and lone surrogates replaced.

    Raises:
        InvalidInputError: longer than ``MAX_CHARACTERS``.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidInputError.of("text", f"{len(text)} characters", f"up to {MAX_CHARACTERS}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def canonical(text: str) -> tuple[str, str, Disguise]:
    """A sanitized text's canonical form, its cleaned form, and what it was hidden under.

    The cleaned form still has its case and its lines: what the shape of a prompt is measured on.
    """
    if text.isascii():
        controls = sum(map(text.count, set(text) & _CONTROLS))
        cleaned = text.translate(_DROP) if controls else text
        folded, disguise = cleaned.lower(), Disguise(controls=controls)
    else:
        cleaned, disguise = _cleaned(text)
        folded = _COMBINING.sub("", unicodedata.normalize("NFD", cleaned.casefold()))
        # Accents come off, so that stacked marks hide nothing and "über" is read like "uber".
        folded, mapped = _without_lookalikes(unicodedata.normalize("NFC", folded))
        disguise = replace(disguise, lookalikes=mapped)
    folded = _REPEAT.sub(r"\1\1\1", folded)
    return _SPACE.sub(" ", folded).strip(), cleaned, disguise


def _cleaned(text: str) -> tuple[str, Disguise]:
    odd = set(text)
    invisible = odd & _INVISIBLE
    controls = odd & _CONTROLS
    if "\ufffd" in odd:
        controls = controls | {"\ufffd"}
    bidi = sum(text.count(character) for character in odd & _BIDI)
    hidden = sum(text.count(character) for character in invisible)
    broken = sum(text.count(character) for character in controls)
    if invisible or controls:
        text = text.translate(_DROP)
    cleaned = unicodedata.normalize("NFKC", text)
    return cleaned, Disguise(invisible=hidden, controls=broken, bidi=bidi)


def _without_lookalikes(text: str) -> tuple[str, int]:
    """Map look-alikes in words that mix scripts; a text in one script stays as it is."""
    foreign = _FOREIGN.findall(text)
    if not foreign:
        return text, 0
    mixed = [w for w in _TOKEN.findall(text) if _FOREIGN.search(w) and _LATIN.search(w)]
    if not mixed:
        return text, 0
    mapped = 0

    def latin(match: re.Match[str]) -> str:
        nonlocal mapped
        word = match.group()
        if not _FOREIGN.search(word):
            return word
        plain = word.translate(_LOOKALIKES)
        if plain == word or (not _LATIN.search(word) and _FOREIGN.search(plain)):
            return word
        mapped += sum(a != b for a, b in zip(word, plain, strict=True))
        return plain

    return _TOKEN.sub(latin, text), mapped


@dataclass(frozen=True)
class View:
    """One reading of a prompt.

    Attributes:
        kind: how it was made.
        text: canonical: lower-case, single spaces, no accents.
        cleaned: the same reading with its case and its lines.
        disguise: what was undone to get there.
    """

    kind: ViewKind
    text: str
    cleaned: str
    disguise: Disguise


def canonical_view(text: str) -> View:
    """The first view of ``text``.

    Raises:
        InvalidInputError: the text is longer than ``MAX_CHARACTERS``.
    """
    return View(ViewKind.CANONICAL, *canonical(sanitized(text)))


def views_of(text: str, vocabulary: Vocabulary) -> list[View]:
    """Every reading of ``text``: the canonical one first, then what could be decoded.

    Raises:
        InvalidInputError: the text is longer than ``MAX_CHARACTERS``.
    """
    text = sanitized(text)
    first = View(ViewKind.CANONICAL, *canonical(text))
    found = [first]
    for kind, decoded in _decoded(text):
        view = View(kind, *canonical(decoded))
        if len(view.text) > 3:
            found.append(view)
    found.extend(
        View(kind, rewritten, rewritten, first.disguise)
        for kind, rewritten in _rewritten(first.text, vocabulary)
    )
    return found


def _decoded(text: str) -> list[tuple[ViewKind, str]]:
    """What parts of the text say once decoded; several parts of one kind are joined."""
    found = []
    if base64_parts := [d for m in _BASE64.findall(text) if (d := _from_base64(m))]:
        found.append((ViewKind.BASE64, " ".join(base64_parts)))
    if hex_parts := [d for m in _HEX.findall(text) if (d := _from_hex(m))]:
        found.append((ViewKind.HEX, " ".join(hex_parts)))
    if binary_parts := [d for m in _BINARY.findall(text) if (d := _from_binary(m))]:
        found.append((ViewKind.BINARY, " ".join(binary_parts)))
    if _ESCAPE.search(text):
        found.append((ViewKind.ESCAPED, _unescaped(text)))
    if not text.isascii():
        tags = "".join(chr(ord(c) - 0xE0000) for c in text if ord(c) in _TAGS)
        if tags:
            found.append((ViewKind.TAGS, tags))
    return found


def _text_of(raw: bytes) -> str:
    """``raw`` as text, or empty where it isn't text."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return text if sum(map(str.isprintable, text)) >= 0.9 * len(text) else ""


def _from_base64(run: str) -> str:
    body = run.rstrip("=").replace("-", "+").replace("_", "/")
    if len(body) % 4 == 1:
        body = body[:-1]
    try:
        return _text_of(base64.b64decode(body + "=" * (-len(body) % 4), validate=True))
    except (binascii.Error, ValueError):
        return ""


def _from_hex(run: str) -> str:
    digits = re.sub(r"0x|\\x|[^0-9A-Fa-f]", "", run)
    return _text_of(bytes.fromhex(digits[: len(digits) // 2 * 2]))


def _from_binary(run: str) -> str:
    bits = re.sub(r"[^01]", "", run)
    return _text_of(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def _unescaped(text: str) -> str:
    text = re.sub(
        r"\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})",
        lambda match: chr(int(match.group(1) or match.group(2), 16)),
        html.unescape(urllib.parse.unquote(text)),
    )
    return sanitized(text)


def _rewritten(plain: str, vocabulary: Vocabulary) -> list[tuple[ViewKind, str]]:
    """Readings of the whole text that hold more known words than the text as it stands."""
    head = plain[:_HEAD]
    here = vocabulary.readable(plain[:_SAMPLE])
    found = []
    mixed = len(_LEET_WORD.findall(head))
    if mixed:
        # Where a third of the words mix digits and letters, a lone "15" is "is", not a number.
        thorough = mixed * 3 > head.count(" ")
        words = _LEET_ANY if thorough else _LEET_WORD
        leet = words.sub(lambda match: match.group().translate(_LEET), head)
        if vocabulary.readable(leet[:_SAMPLE]) > here + 0.05:
            found.append((ViewKind.LEET, leet))
    letters = _LETTER.findall(head)
    if len(letters) >= 8 and len(letters) * 2.6 > len(head.replace(" ", "")):
        found.append((ViewKind.SPACED, _joined(head, vocabulary)))
        return found
    if here < 0.5:
        backwards = head[::-1]
        if vocabulary.readable(backwards[-_SAMPLE:]) > here + 0.25:
            found.append((ViewKind.REVERSED, backwards))
        rotated = codecs.encode(head, "rot13")
        if vocabulary.readable(rotated[:_SAMPLE]) > here + 0.25:
            found.append((ViewKind.ROT13, rotated))
    return found


def _joined(spaced: str, vocabulary: Vocabulary) -> str:
    """Letters written apart, put together and cut into words, a stretch at a time."""
    letters = _SEPARATOR.sub("", spaced)
    return " ".join(vocabulary.segment(stretch) for stretch in letters.split())
