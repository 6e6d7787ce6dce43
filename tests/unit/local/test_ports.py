"""Ports are checked before anything starts."""

from __future__ import annotations

import pytest

from hma.errors import SettingsError
from hma.local.ports import check_ports
from hma.local.settings import load_stack


def test_two_parts_on_one_port_are_refused_naming_both_settings() -> None:
    settings = load_stack({"HMA_ANALYST_PORT": "50055"})

    # The second Worker's port follows the first one's, 50054.
    with pytest.raises(SettingsError, match=r"port 50055: change HMA_\w+ or HMA_\w+") as caught:
        check_ports(settings)
    assert "HMA_ANALYST_PORT" in caught.value.message
    assert "HMA_WORKER_PORT" in caught.value.message


@pytest.mark.parametrize("variable", ["HMA_HOST", "HMA_GATEWAY_HOST"])
def test_address_of_another_machine_is_refused_naming_the_setting(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}: cannot listen on"):
        check_ports(load_stack({variable: "203.0.113.1"}))
