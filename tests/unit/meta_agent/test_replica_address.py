"""Where other replicas reach this one."""

from __future__ import annotations

import socket

import pytest

from hma.errors import SettingsError
from hma.settings import load
from services.meta_agent.settings import MetaAgentSettings


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, "127.0.0.1:50051"),
        ({"HMA_META_AGENT_PORT": "6000", "HMA_HOST": "10.1.2.3"}, "10.1.2.3:6000"),
        ({"HMA_HOST": "0.0.0.0"}, f"{socket.gethostname()}:50051"),
        ({"HMA_HOST": "[::]"}, f"{socket.gethostname()}:50051"),
        ({"HMA_HOST": "0.0.0.0", "HMA_REPLICA_ADDRESS": "pod-7.hma:50051"}, "pod-7.hma:50051"),
    ],
)
def test_the_address_is_told_or_follows_from_what_is_bound(
    environ: dict[str, str], address: str
) -> None:
    assert load(MetaAgentSettings, environ).advertised_address() == address


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(SettingsError, match="HMA_REPLICA_ADDRESS"):
        load(MetaAgentSettings, {"HMA_REPLICA_ADDRESS": "pod-7"})
