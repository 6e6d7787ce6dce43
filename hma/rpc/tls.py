"""TLS between services: mutual, from files that may be replaced while the process runs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from hma.errors import SettingsError
from hma.rpc.watched import Watched
from hma.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Certificates of a service; all three, or none and the network is trusted."""

    cert_file: str = setting(
        "HMA_TLS_CERT_FILE",
        "",
        "PEM file with this service's certificate and what it is signed by; its DNS names are "
        "hma.internal and that of its role, such as worker.hma.internal. Unset: no TLS between "
        "services",
    )
    key_file: str = setting(
        "HMA_TLS_KEY_FILE", "", "PEM file with the private key of HMA_TLS_CERT_FILE"
    )
    ca_file: str = setting(
        "HMA_TLS_CA_FILE",
        "",
        "PEM file with the installation's own certificate authorities: services take no "
        "connection that is not certified by one",
    )

    @property
    def on(self) -> bool:
        """Whether services speak TLS with each other."""
        return bool(self.cert_file)

    def faults(self) -> list[str]:
        """What one setting alone cannot show."""
        named = {
            "HMA_TLS_CERT_FILE": self.cert_file,
            "HMA_TLS_KEY_FILE": self.key_file,
            "HMA_TLS_CA_FILE": self.ca_file,
        }
        missing = [name for name, value in named.items() if not value]
        if not missing or len(missing) == len(named):
            return []
        return [f"{', '.join(missing)}: TLS between services is mutual and needs all three files"]

    def watch(self) -> Watched[TlsMaterial]:
        """The files' content, as it is renewed.

        Raises:
            SettingsError: The files are no good.
        """
        paths = [self.cert_file, self.key_file, self.ca_file]
        return Watched("the TLS files", paths, lambda: _read(*paths))


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What the files hold, in PEM.

    Attributes:
        certificate: The certificate, and those it is signed by.
        key: Its private key.
        authorities: Whose certificates others must have.
    """

    certificate: bytes
    key: bytes
    authorities: bytes

    def __repr__(self) -> str:
        return "TlsMaterial(***)"


def channel_credentials(material: TlsMaterial) -> grpc.ChannelCredentials:
    """What a client shows and believes."""
    return grpc.ssl_channel_credentials(
        material.authorities, private_key=material.key, certificate_chain=material.certificate
    )


def server_credentials(watched: Watched[TlsMaterial]) -> grpc.ServerCredentials:
    """What a server shows and believes: what is in the files when a client connects."""
    first = shown = watched.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Called by grpc for each new connection; None: as before."""
        nonlocal shown
        now = watched.current()
        if now is shown:
            return None
        shown = now
        return _server_configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _server_configuration(first),
        renewed,  # type: ignore[arg-type] # the stub does not know that None is an answer
        require_client_authentication=True,
    )


def _server_configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.authorities
    )


def _read(cert_file: str, key_file: str, ca_file: str) -> TlsMaterial:
    """Reads the files, and finds out now what would fail at the next connection.

    Raises:
        SettingsError: A file cannot be read or is no PEM, or the key is another
            certificate's: renewed by halves, perhaps.
    """
    material = TlsMaterial(
        _bytes("HMA_TLS_CERT_FILE", cert_file),
        _bytes("HMA_TLS_KEY_FILE", key_file),
        _bytes("HMA_TLS_CA_FILE", ca_file),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password: asking for one would wait for a terminal.
        context.load_cert_chain(cert_file, key_file, password="")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"HMA_TLS_CERT_FILE, HMA_TLS_KEY_FILE: {cert_file} and {key_file} are not a "
            f"certificate and its key: {error}"
        ) from None
    try:
        context.load_verify_locations(cadata=material.authorities.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"HMA_TLS_CA_FILE: {ca_file} holds no certificate authorities: {error}"
        ) from None
    if _bytes("HMA_TLS_CERT_FILE", cert_file) != material.certificate:
        raise SettingsError("HMA_TLS_CERT_FILE: it was replaced while it was read")
    return material


def _bytes(variable: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable}: {path} cannot be read: {error.strerror}") from None
