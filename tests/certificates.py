"""A certificate authority of an installation, and what it issues."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from hma.rpc.callers import SERVER_NAME, certificate_name
from hma.rpc.tls import TlsSettings


@dataclass
class Authority:
    """Issues certificates into a directory.

    Attributes:
        directory: Where the files are: ca.pem, and a .pem and a .key for each name.
    """

    directory: Path
    _ca: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        _write(self.ca_file, self.pem)

    @property
    def ca_file(self) -> Path:
        """The authority's own certificate."""
        return self.directory / "ca.pem"

    @property
    def pem(self) -> bytes:
        """The same, as it is in the file."""
        return bytes(self._ca.cert_pem.bytes())

    def issue(self, role: str, *names: str, lifetime: float = 3600) -> TlsSettings:
        """A certificate of a role, in place of the one that is there.

        Args:
            role: Whose; names the files, too.
            names: DNS names and addresses; none: those of a service of that role.
            lifetime: Seconds for which it is good.
        """
        wanted = names or (SERVER_NAME, certificate_name(role))
        made = self._ca.issue_cert(
            *wanted, not_after=datetime.now(UTC) + timedelta(seconds=lifetime)
        )
        settings = self.settings(role)
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        _write(Path(settings.key_file), made.private_key_pem.bytes())
        _write(Path(settings.cert_file), chain)
        return settings

    def certificate(self, role: str) -> str:
        """The certificate that is there, in PEM."""
        return (self.directory / f"{role}.pem").read_text()

    def settings(self, role: str) -> TlsSettings:
        """Where a role's files are."""
        return TlsSettings(
            cert_file=str(self.directory / f"{role}.pem"),
            key_file=str(self.directory / f"{role}.key"),
            ca_file=str(self.ca_file),
        )


def _write(path: Path, content: bytes) -> None:
    """Replaces a file as a whole, as those who renew certificates do."""
    beside = path.with_name(f".{path.name}")
    beside.write_bytes(content)
    beside.replace(path)
