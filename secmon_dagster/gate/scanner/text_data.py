"""Text formats that a reader turns into objects or actions: YAML, XML, CSV."""

from __future__ import annotations

import re
from urllib.parse import unquote

from .context import Scan
from .source import Source
from .targets import judge_targets

MAX_TEXT = 256 << 20
WINDOW = 4 << 20
_YAML_TAGS = frozenset(
    {
        *("str", "int", "float", "bool", "null", "map", "seq", "set", "binary", "timestamp"),
        *("omap", "pairs", "merge", "value"),
    }
)
# Those in which the marks that are looked for are ASCII, and UTF-16.
_XML_ENCODINGS = re.compile(
    r"utf-?8|utf-?16(?:[bl]e)?|us-ascii|ascii|latin-?1|iso-8859-\d+|windows-12\d\d|cp12\d\d"
    r"|gb2312|gbk|gb18030|big5|shift_jis|euc-\w+|koi8-\w+",
    re.IGNORECASE,
)
# A tag stands where a node begins; a mark in the middle of a text is none.
_YAML_TAG = re.compile(
    r"(?:^[ \t]*|[\[{,:][ \t]*|[?-][ \t]+|&\S+[ \t]+)(!(?:<[^>\n]*>|!?[A-Za-z%][^\s,\[\]{}]*))",
    re.MULTILINE,
)
_CELL = re.compile(
    rb"(?:^|[,;\t|])[ ]*\"?[ \t\r]*(?:"
    # A formula that calls something; one that asks another program (DDE); any other.
    rb"((?:=|\xef\xbc\x9d)[^,;\n]{0,200}?[A-Za-z_.]+[ ]*\()|"
    rb"((?:[-+=@]|\xef\xbc[\x8b\x8d\x9d\xa0])[^,;\t|\n]{0,200}?[A-Za-z_.]+\|(?:'[^'\n]*'|[^,;\t|\n]*)!"
    rb"|[-+@][ ]*[A-Za-z_.]+\()|"
    rb"(=[^,;\n]*[-+*/&(]))",
    re.MULTILINE,
)


def read_text(scan: Scan, source: Source, where: str) -> str | None:
    """The whole text, by its byte-order mark; None (and blocked) where it is too long."""
    if source.size > MAX_TEXT:
        scan.report.block("over-budget", "a text of more than 256 MiB", where)
        return None
    data = source.read(0, source.size)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if b"\0" in data[:4]:
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le", "replace")
    return data.decode("utf-8-sig", "replace")


def scan_yaml(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge tags: those that name a language's objects block."""
    scan.report.saw_format("yaml")
    text = read_text(scan, source, where)
    if text is None:
        return
    text = re.sub("[\r\x85\u2028\u2029]", "\n", text)  # line breaks to YAML
    if re.search(r"^%TAG\b", text, re.MULTILINE):
        scan.report.block("yaml-tag", "a %TAG directive can rename any tag", where)
    for found in _YAML_TAG.finditer(text):
        tag = unquote(found.group(1))
        bare = tag.removeprefix("!<").removesuffix(">").removeprefix("tag:yaml.org,2002:")
        bare = bare.removeprefix("!!") if tag.startswith("!!") else bare
        if tag == "!" or bare in _YAML_TAGS:
            continue
        if tag.startswith(("!!", "!<")) or "/" in tag:
            scan.report.block("yaml-tag", f"the tag {tag} makes objects of a language", where, tag)
        elif len(tag) > 1 and tag[1].isalpha():
            scan.report.warn("yaml-custom-tag", f"the tag {tag} needs a loader of its own", where)
    judge_targets(scan, text, where)
    if sum(line.count("*") >= 5 and "[" in line for line in text.splitlines()) >= 4:
        scan.report.block("yaml-bomb", "aliases of aliases grow without bound", where)


def scan_xml(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge declarations: entities and external types block, and so does script in style sheets."""
    scan.report.saw_format("xml")
    text = read_text(scan, source, where)
    if text is None:
        return
    named = re.match(r"\s*<\?xml[^>]*\bencoding\s*=\s*[\"']([^\"']*)", text)
    if named and not _XML_ENCODINGS.fullmatch(named.group(1)):
        scan.report.block("xml-encoding", f"text in the encoding {named.group(1)}", where)
    if re.search(r"<!ENTITY", text, re.IGNORECASE):
        scan.report.block("xml-entity", "declares entities (XXE or an entity bomb)", where)
    elif re.search(r"<!DOCTYPE[^>\[]*\b(?:SYSTEM|PUBLIC)\b", text, re.IGNORECASE):
        scan.report.block("xml-doctype", "refers to an external document type", where)
    if re.search(r"<(?:msxsl|xalan|lxslt)[:\w-]*script|<xsl:|xi:include", text, re.IGNORECASE):
        scan.report.block("xml-script", "holds a transformation, a script or an inclusion", where)
    if not re.search(r"<[A-Za-z_]", text):
        scan.report.block("unreadable", "no XML element is in it", where)


def scan_csv(scan: Scan, source: Source, where: str, name: str) -> None:
    """Judge cells that a spreadsheet would run as formulas."""
    scan.report.saw_format("csv")
    at = 0
    while at < source.size:
        data = source.read(at, WINDOW)
        for found in _CELL.finditer(data):
            place = f"{where}@{at + found.start()}"
            if found.group(1) or found.group(2):
                shown = found.group().strip(b',;\t| "\r\n')[:40].decode("latin-1")
                scan.report.block("csv-formula", f"a cell is a formula: {shown}", place)
            else:
                scan.report.warn("csv-formula", "a cell begins like a formula", place)
        scan.budget.check_time()
        at += WINDOW - 4096 if at + WINDOW < source.size else WINDOW
