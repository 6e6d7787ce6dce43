"""Where output goes: a rich console for people, JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console, RenderableType

from hma.text.unseen import escaped

_PLAIN_WIDTH = 120


def console() -> Console:
    """A console on stdout. Made per command, because tests exchange stdout."""
    out = Console(highlight=False, emoji=False, markup=False)
    if not out.is_terminal:
        # Without a terminal there is no width to obey; 80 would cut the tables.
        out = Console(highlight=False, emoji=False, markup=False, width=_PLAIN_WIDTH)
    return out


def show(parts: Iterable[RenderableType], to: Console) -> None:
    """Prints one part after the other."""
    for part in parts:
        to.print(part)


def json_line(message: Message, wrap: str | None = None) -> None:
    """Prints `message` as one line of JSON, in the form that the HTTP API has.

    Args:
        message: What to print.
        wrap: Key to put it under; None: not at all.
    """
    body = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    click.echo(escaped(json.dumps({wrap: body} if wrap else body, ensure_ascii=False)))
