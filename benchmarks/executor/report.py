"""Lines of results, and whether a promise was missed."""

from __future__ import annotations

missed: list[str] = []


def report(what: str, measured: str, promised: str = "", met: bool | None = None) -> None:
    """Print one line; ``met`` says whether what was promised held."""
    verdict = "" if met is None else "met" if met else "MISSED"
    if met is False:
        missed.append(what)
    print(f"{what:<58} {measured:<40} {promised:<28} {verdict}", flush=True)
