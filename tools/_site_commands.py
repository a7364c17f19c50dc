"""The pages of the command line, made from its own parser, and of the commands in `tools`."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import typer
from _site_markdown import code, heading, table, text

from mpipipe.cli import exits
from mpipipe.cli.main import app


def list_commands() -> str:
    """Every command with its arguments and options, and the exit codes."""
    root = typer.main.get_command(app)
    parts = [
        table(
            ("command", "does"),
            ((f"[{code(name)}](#{anchor(name)})", text(first_line(command)))
             for name, command in all_commands(root)),
        ),
        *(command_part(name, command) for name, command in all_commands(root)),
        exit_codes(),
    ]  # fmt: skip
    return "\n".join(parts)


def anchor(name: str) -> str:
    """Where a command stands on the page."""
    return name.replace(" ", "-")


def all_commands(group: Any, before: str = "") -> list[tuple[str, Any]]:
    """All commands as (name, parser), those of groups behind each other."""
    found = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if not command.hidden:
            found += all_commands(command, f"{before}{name} ") if inner else [
                (before + name, command)
            ]  # fmt: skip
    return sorted(found)


def first_line(command: Any) -> str:
    """What it does, in a sentence."""
    paragraph = " ".join((command.help or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph)[0]


def command_part(name: str, command: Any) -> str:
    """The part of one command."""
    context = command.make_context(f"mpipipe {name}", [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    rows = [
        (code(record[0]), text(re.sub(r"\s{2,}\[", " [", record[1])))
        for record in (one.get_help_record(context) for one in command.get_params(context))
        if record is not None and record[0] != "--help"
    ]
    parts = [heading(2, code(name)), f"```\nmpipipe {name} {usage}\n```\n"]
    parts += [paragraph(words) for words in (command.help or "").split("\n\n")]
    if rows:
        parts.append(table(("argument or option", "what"), rows))
    return "\n".join(parts)


def paragraph(words: str) -> str:
    """A paragraph of a command's help; what keeps its lines (`\\b`) and examples are code."""
    kept = words.strip("\n")
    if kept.startswith("\b"):
        kept = kept[1:].strip("\n")
        head, _, rest = kept.partition("\n")
        if head.endswith(":"):
            return f"{text(head)}\n\n```\n{inspect.cleandoc(rest)}\n```\n"
        return f"```\n{inspect.cleandoc(kept)}\n```\n"
    if kept.startswith("Example: "):
        return f"Example:\n\n```\n{kept.removeprefix('Example: ')}\n```\n"
    return text(kept) + "\n"


def exit_codes() -> str:
    """The exit codes, with the docstrings under them."""
    source = inspect.getsource(exits.Exit)
    found = re.findall(r'(\w+) = (\d+)\n    """(.*?)"""', source, re.DOTALL)
    return heading(2, "Exit codes") + "\n" + table(
        ("code", "name", "says"), ((value, code(name), text(words)) for name, value, words in found)
    )  # fmt: skip


def list_tools() -> str:
    """The checks and benchmarks of the repository, in the words of their docstrings."""
    parts = []
    for title, pattern in (("Checks", "check_*"), ("Benchmarks", "bench_*")):
        rows = [
            (code(f"tools/{path.name}"), text(first_line_of(path)))
            for path in sorted(Path(__file__).parent.glob(pattern))
        ]
        parts += [heading(2, title), table(("command", "what"), rows)]
    return "\n".join(parts)


def first_line_of(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
