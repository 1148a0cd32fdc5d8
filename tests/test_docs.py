"""The documentation leads somewhere: its links to files, its commands to commands and options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from secmon_dagster.cli.main import build
from secmon_dagster.settings import PROJECT_ROOT

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
_CONSOLE = re.compile(r"^```console\n(.*?)^```", re.S | re.M)
PAGES = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]


def commands(page: Path, program: str) -> list[list[str]]:
    """The words after ``program`` of each such line in the page's console blocks."""
    lines = [line for block in _CONSOLE.findall(page.read_text()) for line in block.splitlines()]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [
        line[1 : line.index("<") if "<" in line else None]
        for line in words
        if line and line[0] == program
    ]


def parse(words: list[str]) -> None:
    """As the command line would, up to the point where it would run."""
    command: click.Command = typer.main.get_command(build(words))
    context = command.make_context("secmon", list(words))
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path):
    targets = [t for t in _LINK.findall(page.read_text()) if "://" not in t]
    assert [t for t in targets if not (page.parent / t).exists()] == []


@pytest.mark.parametrize(
    "words", [c for page in PAGES for c in commands(page, "secmon")], ids=" ".join
)
def test_every_secmon_command_shown_exists_with_its_options(words: list[str]):
    try:
        parse(words)
    except click.MissingParameter:
        raise
    except click.BadParameter:
        pass  # the page's file names and dates are examples; the parameter is there


@pytest.mark.parametrize("target", [c[0] for page in PAGES for c in commands(page, "make")])
def test_every_make_target_shown_exists(target: str):
    assert re.search(rf"^{target}:", (PROJECT_ROOT / "Makefile").read_text(), re.M)
