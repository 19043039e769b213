"""The verbs of the command line: our own, and those that packages register by entry point.

A package adds a verb with an entry point in the group ``circuitbench.commands``: its name is the
verb, its value a click command. A verb is imported when it is called; ``--help`` reads its first
sentence from its source. So one that is broken hurts nobody who does not call it.
"""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint, entry_points

import click

from circuitbench.core.errors import CircuitBenchError, InvalidPlugin, UnknownName
from circuitbench.plugins.registry import load_entry, origin, registered_twice
from circuitbench.plugins.source import Unreadable, definition

GROUP = "circuitbench.commands"
WIDTH = 60  # characters of a verb's line of help


class Verbs(click.Group):
    """A group of verbs that are imported when called; an unknown one is told the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs by name; imports none."""
        return sorted({*self.commands, *(entry.name for entry in _registered())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of this name, None if there is none.

        Raises:
            InvalidPlugin: two verbs have this name, or it cannot be imported, or is none.
            MissingExtra: importing it needs an optional package that is not installed.
        """
        own, entries = self.commands.get(cmd_name), _registered(cmd_name)
        if not entries:
            return own
        if own is not None:
            raise registered_twice("command", cmd_name, ["circuitbench itself", *_origins(entries)])
        verb = load_entry("command", cmd_name, entries)
        if not isinstance(verb, click.Command):
            raise InvalidPlugin(
                f"command {cmd_name!r} ({entries[0].value}) must be a click command, "
                f"not {type(verb).__name__}"
            )
        return verb

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; raises :class:`UnknownName` for one that does not exist."""
        if args and self.get_command(ctx, args[0]) is None:
            raise UnknownName("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line per verb; imports none whose source can be read."""
        rows = [(name, self._short_help(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _short_help(self, ctx: click.Context, name: str) -> str:
        own, entries = self.commands.get(name), _registered(name)
        if own is not None and not entries:
            return own.get_short_help_str(WIDTH)
        if own is None and len(entries) == 1:
            try:
                said = ast.get_docstring(definition(entries[0].value))
                return click.Command(name, help=said).get_short_help_str(WIDTH)
            except Unreadable:
                pass  # not written in Python, say: importing it is the only way to know
        try:
            verb = self.get_command(ctx, name)
        except CircuitBenchError as error:
            return f"(unusable: {error})"
        return "" if verb is None else verb.get_short_help_str(WIDTH)


def _registered(name: str | None = None) -> list[EntryPoint]:
    """The entry points of verbs, or of the verb of one name."""
    found = entry_points(group=GROUP)
    return [entry for entry in found if name is None or entry.name == name]


def _origins(entries: list[EntryPoint]) -> list[str]:
    return [f"{entry.value} ({origin(entry)})" for entry in entries]
