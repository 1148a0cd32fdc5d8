"""Judge an import by allow-list: may a file name this class or function?

The tables are ``allowlist/*.toml``, one a library. A table may hold

* ``[names]``: module = [names], each vetted one by one: what makes values again, whatever it is
  called with;
* ``[values]``: functions that models hold (a metric, an activation). No file needs to call them:
  a chain of such calls leads from an estimator's method to any method of any object;
* ``[classes]``: ``under`` = module prefixes whose capitalised classes are vetted as a whole (the
  sweep test instantiates each under an audit hook), ``except`` = names or modules left out;
* ``[allocates]``: names whose integer arguments become memory;
* ``[restored]``: names that may be restored from a state, but open a text they are called with;
* ``[methods]``: class methods by which classes are restored, ``Class.method``.

What is in no table blocks if it is standard library, lower-case, dotted, or of a package that is
public and not vetted; a capitalised class of a package nobody knows (a project's own) warns.
"""

from __future__ import annotations

import _compat_pickle
import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from pathlib import Path

TABLES = Path(__file__).parent / "allowlist"


_WORDS = re.compile(r"[A-Z][a-z]+")
_RUNNING_WORDS = frozenset({"Popen", "Spawn", "Shell", "Exec", "Eval", "Subprocess"})


class Standing(StrEnum):
    """What the tables say about an import."""

    ALLOWED = "allowed"
    UNKNOWN = "unknown"
    REFUSED = "refused"


@dataclass(frozen=True)
class Judgement:
    """The standing of one import and, where it isn't allowed, the reason."""

    standing: Standing
    reason: str = ""


@dataclass
class ImportPolicy:
    """The allow-list with an operator's own additions (``package.module.Name``)."""

    names: set[tuple[str, str]] = field(default_factory=set)
    values: set[tuple[str, str]] = field(default_factory=set)
    prefixes: list[str] = field(default_factory=list)
    excepted: set[str] = field(default_factory=set)
    allocates: set[tuple[str, str]] = field(default_factory=set)
    restored: set[tuple[str, str]] = field(default_factory=set)
    methods: set[tuple[str, str]] = field(default_factory=set)
    public: set[str] = field(default_factory=set)
    strict: bool = False
    _known: dict[tuple[str, str], Judgement] = field(default_factory=dict)

    def judge(self, module: str, name: str) -> Judgement:
        """The standing of ``module.name`` as the unpickler would resolve it."""
        key = (module, name)
        known = self._known.get(key)
        if known is None:
            known = self._judge(module, name)
            if len(self._known) < 10_000:
                self._known[key] = known
        return known

    def only_named(self, module: str, name: str) -> bool:
        """Whether a file may hold this function and not call it."""
        return (module, name) in self.values and (module, name) not in self.names

    def _judge(self, module: str, name: str) -> Judgement:
        if (module, name) in self.names or (module, name) in self.values:
            return Judgement(Standing.ALLOWED)
        top = module.partition(".")[0]
        if not all(part.isidentifier() for part in module.split(".")):
            return Judgement(Standing.REFUSED, "is not the name of a module")
        if "." in name:
            return Judgement(Standing.REFUSED, "reaches through a dotted name")
        if top in sys.stdlib_module_names or top in _PYTHON_2_MODULES:
            return Judgement(Standing.REFUSED, "is standard library and not on the allow-list")
        if not is_class_name(name):
            return Judgement(Standing.REFUSED, "is not a class and not on the allow-list")
        if self._vetted_class(module, name):
            return Judgement(Standing.ALLOWED)
        if top in self.public:
            return Judgement(
                Standing.REFUSED, "belongs to a public package and is not on the allow-list"
            )
        if _RUNNING_WORDS.intersection(_WORDS.findall(name)) or "subprocess" in module:
            return Judgement(Standing.REFUSED, "is named for running programs")
        standing = Standing.REFUSED if self.strict else Standing.UNKNOWN
        return Judgement(standing, "is a class nobody vetted")

    def _vetted_class(self, module: str, name: str) -> bool:
        if f"{module}.{name}" in self.excepted or name in self.excepted:
            return False
        parents = module.split(".")
        if any(".".join(parents[: n + 1]) in self.excepted for n in range(len(parents))):
            return False
        return any(module == prefix or module.startswith(prefix + ".") for prefix in self.prefixes)


def is_class_name(name: str) -> bool:
    """Whether a name reads as a class: an identifier whose first letter is a capital."""
    letters = name.lstrip("_")
    return name.isidentifier() and letters[:1].isupper()


def python3_name(module: str, name: str) -> tuple[str, str]:
    """The import an unpickler makes of a protocol 0–2 name (``fix_imports``)."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        return _compat_pickle.NAME_MAPPING[module, name]
    return _compat_pickle.IMPORT_MAPPING.get(module, module), name


@cache
def _base() -> ImportPolicy:
    """The shipped tables, read once."""
    policy = ImportPolicy()
    for path in sorted(TABLES.glob("*.toml")):
        table: dict[str, dict[str, list[str]]] = tomllib.loads(path.read_text("utf-8"))
        for module, names in table.get("names", {}).items():
            policy.names.update((module, name) for name in names)
        classes = table.get("classes", {})
        policy.prefixes += classes.get("under", [])
        policy.excepted.update(classes.get("except", []))
        for kind in ("values", "allocates", "restored", "methods"):
            for module, names in table.get(kind, {}).items():
                getattr(policy, kind).update((module, name) for name in names)
        policy.public.update(table.get("public", {}).get("packages", []))
    return policy


def load_policy(allow: Iterable[str] = (), *, strict: bool = False) -> ImportPolicy:
    """The shipped tables plus an operator's additions.

    Raises:
        ValueError: an addition is not ``module.Name``.
    """
    base = _base()
    policy = replace(base, names=set(base.names), strict=strict, _known={})
    for added in allow:
        module, dot, name = added.rpartition(".")
        if not dot or not name.isidentifier():
            raise ValueError(f"allow holds {added!r}; allowed: package.module.Name")
        policy.names.add((module, name))
    return policy


# Modules that Python had, or has on another platform or in another version.
_PYTHON_2_MODULES = frozenset(
    {module.partition(".")[0] for module in _compat_pickle.IMPORT_MAPPING}
    | {"popen2", "sets", "md5", "sha", "posix", "nt", "_winapi", "winreg", "msvcrt", "distutils"}
    | {"imp", "asyncore", "asynchat", "smtpd", "lib2to3", "cgi", "cgitb", "crypt", "pipes"}
    | {"telnetlib", "test", "_pyrepl"}
)
