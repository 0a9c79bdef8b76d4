"""Writes docs/reference/cli.md, the reference of the command line, from the parsers.

    python scripts/make_cli_reference.py [FILE]

tests/test_docs.py compares the page with what this program writes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsefire.cli import build_parser

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "cli.md"

INTRODUCTION = """\
# Command line

Generated from the parsers by `python scripts/make_cli_reference.py`; do not edit.

The exit status is 0, 1 after an error, 2 if an argument was wrong, and 130 after Ctrl-C. Errors are
one line on standard error."""


def subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands of a parser, with the summary of each."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {each.dest: each.help or "" for each in action._choices_actions}
            for name, command in action.choices.items():
                yield summaries[name], command


def names(action: argparse.Action) -> str:
    """How an argument is given: `-m, --model FILE`."""
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    if not action.option_strings:
        return f"`{value}`"
    takes_value = action.nargs != 0
    return f"`{', '.join(action.option_strings)}{f' {value}' if takes_value else ''}`"


def text_of(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """The help of an argument, with its default put in, as a cell of a table."""
    values: dict[str, Any] = {**vars(action), "prog": parser.prog}
    return " ".join(((action.help or "") % values).split()).replace("|", "\\|")


def section(summary: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """The section of one command, without its heading."""
    shown = [each for each in parser._actions if not isinstance(each, argparse._HelpAction)]
    positional = [each for each in shown if not each.option_strings]
    required = [each for each in shown if each.option_strings and each.required]
    usage = [parser.prog, *(names(each).strip("`") for each in required), "[options]"]
    usage += [names(each).strip("`") for each in positional]
    yield f"    {' '.join(usage)}"
    description = parser.description or summary
    if parser.formatter_class is argparse.RawDescriptionHelpFormatter:
        head, *rest = description.split("\n\n")
        description = "\n\n".join([head, *("```\n" + each.rstrip() + "\n```" for each in rest)])
    yield description
    for group in parser._action_groups:
        actions = [
            each for each in group._group_actions if not isinstance(each, argparse._HelpAction)
        ]
        if actions:
            title = {"positional arguments": "argument", "options": "option"}
            heading = title.get(group.title or "", group.title)
            rows = [f"| {names(each)} | {text_of(each, parser)} |" for each in actions]
            yield "\n".join([f"| {heading} | |", "|---|---|", *rows])


def make_page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    parser = build_parser()
    commands = list(subcommands(parser))
    overview = [f"| `{command.prog}` | {summary} |" for summary, command in commands]
    parts.append("\n".join(["| command | |", "|---|---|", *overview]))
    for summary, command in commands:
        parts.append(f"## `{command.prog}`")
        inner = list(subcommands(command))
        if not inner:
            parts += section(summary, command)
        for inner_summary, inner_command in inner:
            parts += [f"### `{inner_command.prog}`", *section(inner_summary, inner_command)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    path.write_text(make_page(), encoding="utf-8")
