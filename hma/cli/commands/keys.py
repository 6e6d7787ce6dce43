"""The commands on API keys: create, list, rotate, revoke."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import click
from click.shell_completion import CompletionItem
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table

from hma.cli.options import DurationType, Output, common
from hma.cli.outcome import examples
from hma.cli.printing import console, json_line, show
from hma.cli.reading import when
from hma.cli.tables import Column, fitted
from hma.cli.wording import clean, one_line, seconds, word
from hma.client import Backoff, Client
from hma.client.connection import Server
from hma.client.keys import RoleName, create_key
from hma.client.plaintext import guard_key
from hma.errors import HmaError
from hma.v1 import admin_pb2

_ROLES = ["reader", "user", "admin", "operator"]
_ONCE = "This is the only time that the secret is shown. Use it: export HMA_API_KEY=…"
_ENCRYPT_DIRECTLY = "let services speak TLS (HMA_TLS_CERT_FILE and its like)"


class KeyIdType(click.ParamType[str]):
    """A key's id; the shell completes it from the caller's keys."""

    name = "key"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Ids that begin so; none when the server is not there quickly."""
        try:
            with Client(ctx.params.get("server"), timeout=1.0, backoff=Backoff(tries=1)) as client:
                keys = list(client.keys.list())
        except HmaError:
            return []
        return [
            CompletionItem(key.key_id, help=one_line(key.note, 60))
            for key in keys
            if key.key_id.startswith(incomplete) and not key.HasField("revoke_time")
        ]


_key = click.argument("key", type=KeyIdType())


@click.group(
    epilog=examples(
        'hma keys create --note "nightly reports" --lifetime 30d',
        "hma keys list",
        "hma keys rotate cGwGnelNMd8L --grace 1d",
        "hma keys revoke cGwGnelNMd8L",
    )
)
def keys() -> None:
    """Make, list, renew and end the keys with which HMA is called.

    Needs a key with the role admin, for other tenants operator.
    """


@keys.command(
    epilog=examples(
        'hma keys create --note "nightly reports" --lifetime 30d',
        "hma keys create --tenant acme --role admin",
        "(umask 077; hma keys create -o json | jq -r .secret > key)",
        "hma keys create --role operator --tenant default \\",
        "  --direct meta-agent:50051 --internal-key-file /run/secrets/internal-key",
    )
)
@click.option("--tenant", default="", metavar="NAME", help="Whose it will be; default: yours.")
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    default="user",
    show_default=True,
    help="What its bearer may do; each may do what those before it may.",
)
@click.option("--note", default="", metavar="TEXT", help="What it is for.")
@click.option(
    "--lifetime",
    type=DurationType(),
    metavar="TIME",
    help='How long it works: "12h", "30d". Default: until it is revoked.',
)
@click.option(
    "--direct",
    default="",
    metavar="HOST:PORT",
    help="Ask a MetaAgent itself, past the gateway: for the first key of an installation. "
    "Needs --tenant and --internal-key-file.",
)
@click.option(
    "--internal-key-file",
    type=click.Path(exists=True, dir_okay=False, readable=True),
    envvar="HMA_INTERNAL_KEY_FILE",
    help="File with the key that the services share. [env: HMA_INTERNAL_KEY_FILE]",
)
@common
def create(
    tenant: str,
    role: RoleName,
    note: str,
    lifetime: float | None,
    direct: str,
    internal_key_file: str | None,
    server: str,
    output: Output,
) -> None:
    """Make a key. Only its hash is kept: the secret is shown once."""
    if direct:
        made = _created_directly(
            direct, internal_key_file, create_key(tenant, role, note, lifetime)
        )
    else:
        with Client(server) as client:
            made = client.keys.create(tenant=tenant, role=role, note=note, lifetime=lifetime)
    _say_secret(made, output, "made")


def _created_directly(
    address: str, file: str | None, request: admin_pb2.CreateKeyRequest
) -> admin_pb2.CreateKeyResponse:
    if not file or not request.tenant:
        raise click.UsageError("--direct needs --internal-key-file and --tenant.")
    # Not what every command should have to load, or to have installed.
    from hma.rpc.direct import create_key_directly
    from hma.rpc.internal_keys import read_internal_keys
    from hma.rpc.tls import TlsSettings
    from hma.rpc.tokens import TokenKeys
    from hma.settings import load

    tls = load(TlsSettings, os.environ)
    guard_key(Server(address, tls.on), _ENCRYPT_DIRECTLY)
    return create_key_directly(address, TokenKeys(read_internal_keys(file)), request, tls=tls)


@keys.command(
    "list",
    epilog=examples(
        "hma keys list",
        'hma keys list --tenant "*"',
        "hma keys list -o json | jq -r 'select(.last_use_time == null) | .key_id'",
    ),
)
@click.option(
    "--tenant", default="", metavar="NAME", help='Whose; default: yours; "*": everybody\'s.'
)
@common
def list_keys(tenant: str, server: str, output: Output) -> None:
    """List keys, the newest first, revoked ones included."""
    with Client(server) as client:
        found = client.keys.list(tenant)
        if output == "json":
            for key in found:
                json_line(key)
            return
        rows = list(found)
    if rows:
        out = console()
        show([_table(rows, time.time(), out)], out)
    else:
        click.echo("No keys.")


@keys.command(epilog=examples("hma keys rotate cGwGnelNMd8L --grace 1d"))
@_key
@click.option(
    "--grace",
    type=DurationType(),
    metavar="TIME",
    help="How long the secret that it has now works on: 30d at most. Default: it ends within "
    "seconds.",
)
@common
def rotate(key: str, grace: float | None, server: str, output: Output) -> None:
    """Give a key a new secret; tenant, role and expiry stay."""
    with Client(server) as client:
        rotated = client.keys.rotate(key, grace)
    _say_secret(rotated, output, "has a new secret")
    if output == "text" and rotated.key.HasField("old_secret_expire_time"):
        click.echo(f"The old secret works until {_moment(rotated.key.old_secret_expire_time)}.")


@keys.command(epilog=examples("hma keys revoke cGwGnelNMd8L"))
@_key
@common
def revoke(key: str, server: str, output: Output) -> None:
    """End a key. It is refused everywhere within seconds."""
    with Client(server) as client:
        revoked = client.keys.revoke(key)
    if output == "json":
        json_line(revoked)
    else:
        click.echo(f"Key {revoked.key_id} is revoked.")


def _say_secret(
    made: admin_pb2.CreateKeyResponse | admin_pb2.RotateKeyResponse, output: Output, what: str
) -> None:
    if output == "json":
        json_line(made)
        return
    key = made.key
    click.echo(
        f"Key {key.key_id} {what}: {word(admin_pb2.CallerRole, key.role)} of {clean(key.tenant)}",
        err=True,
    )
    click.echo(made.secret)
    click.echo(_ONCE, err=True)


def _table(found: Sequence[admin_pb2.ApiKey], now: float, out: Console) -> Table:
    def column(name: str, cells: list[str], rank: int = 0, *, text: bool = False) -> Column:
        return Column(name, cells, rank, text=text, left=not text)

    return fitted(
        [
            column("key", [clean(key.key_id) for key in found]),
            column("tenant", [clean(key.tenant) for key in found], 1),
            column("role", [word(admin_pb2.CallerRole, key.role) for key in found]),
            column("state", [_state(key, now) for key in found]),
            column("made", [_ago(key.create_time, now) for key in found], 4),
            column("last used", [_last_use(key, now) for key in found], 2),
            column("note", [one_line(key.note, 200) for key in found], 3, text=True),
        ],
        out.width,
    )


def _state(key: admin_pb2.ApiKey, now: float) -> str:
    """Whether it works, and for how long."""
    if key.HasField("revoke_time"):
        return "revoked"
    if not key.HasField("expire_time"):
        return "works"
    left = when(key.expire_time) - now
    return "expired" if left <= 0 else f"works for {_long(left)}"


def _last_use(key: admin_pb2.ApiKey, now: float) -> str:
    return _ago(key.last_use_time, now) if key.HasField("last_use_time") else "never"


def _ago(time_: Timestamp, now: float) -> str:
    return f"{_long(now - when(time_))} ago"


def _long(span: float) -> str:
    days = span / 86_400
    return f"{days:.0f}d" if days >= 2 else seconds(span)


def _moment(time_: Timestamp) -> str:
    return datetime.fromtimestamp(when(time_), UTC).strftime("%Y-%m-%d %H:%M UTC")
