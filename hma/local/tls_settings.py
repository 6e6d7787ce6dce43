"""Certificates of the local stack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hma.errors import SettingsError
from hma.rpc.tls import TlsSettings
from hma.settings import setting

_ROLE = "{role}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackTls:
    """Between the services, and in front of the gateway.

    The path of a service's certificate may hold `{role}`, which stands for each part's role.
    """

    cert_file: str = setting(
        "HMA_TLS_CERT_FILE",
        "",
        "PEM file with the certificate of each service; {role} in it stands for analyst, worker, "
        "reducer, meta-agent, gateway and cli (the stack's own calls). Unset: no TLS between "
        "services.",
    )
    key_file: str = setting(
        "HMA_TLS_KEY_FILE", "", "PEM file with its private key; {role} may be in it, too."
    )
    ca_file: str = setting(
        "HMA_TLS_CA_FILE", "", "PEM file with the installation's own certificate authorities."
    )
    gateway_cert_file: str = setting(
        "HMA_GATEWAY_TLS_CERT_FILE",
        "",
        "PEM file with the certificate that the gateway shows to clients; the local stack calls it "
        "by HMA_GATEWAY_HOST, or HMA_HOST; renewed by replacing the file. Unset: clients connect "
        "in plain text.",
    )
    gateway_key_file: str = setting(
        "HMA_GATEWAY_TLS_KEY_FILE", "", "PEM file with the private key of that certificate."
    )
    client_ca_file: str = setting(
        "HMA_CA_FILE",
        "",
        "PEM file with the certificate authorities that clients believe; unset: the usual ones.",
    )

    @property
    def between_services(self) -> bool:
        """Whether the services speak TLS with each other."""
        return bool(self.cert_file)

    @property
    def for_clients(self) -> bool:
        """Whether clients speak TLS with the gateway."""
        return bool(self.gateway_cert_file)

    def of(self, role: str) -> TlsSettings:
        """A role's certificate; paths are absolute."""

        def own(path: str) -> str:
            return str(Path(path.replace(_ROLE, role)).absolute()) if path else ""

        return TlsSettings(
            cert_file=own(self.cert_file), key_file=own(self.key_file), ca_file=own(self.ca_file)
        )

    def environment_of(self, role: str) -> dict[str, str]:
        """What a service's process is told."""
        if not self.between_services:
            return {}
        tls = self.of(role)
        return {
            "HMA_TLS_CERT_FILE": tls.cert_file,
            "HMA_TLS_KEY_FILE": tls.key_file,
            "HMA_TLS_CA_FILE": tls.ca_file,
        }

    def check(self) -> None:
        """Checks what one setting alone cannot show.

        Raises:
            SettingsError: A certificate is there in part only.
        """
        faults = TlsSettings(
            cert_file=self.cert_file, key_file=self.key_file, ca_file=self.ca_file
        ).faults()
        if bool(self.gateway_cert_file) != bool(self.gateway_key_file):
            faults.append(
                "HMA_GATEWAY_TLS_CERT_FILE, HMA_GATEWAY_TLS_KEY_FILE: both are required, or none"
            )
        if faults:
            raise SettingsError("; ".join(faults))
