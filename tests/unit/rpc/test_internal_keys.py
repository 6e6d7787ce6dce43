"""The file of internal keys, and the gateway's credential."""

from __future__ import annotations

from pathlib import Path

import pytest

from hma.errors import SettingsError
from hma.rpc.internal_keys import gateway_credential, is_gateway, read_internal_keys

OLD, NEW = "o" * 32, "n" * 64


def test_each_line_is_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{NEW}\n\n  {OLD}\r\n")
    assert read_internal_keys(path) == [NEW.encode(), OLD.encode()]


@pytest.mark.parametrize("content", ["", "\n\n", "short", f"{NEW}\nshort"])
def test_a_file_without_safe_keys_is_refused_without_showing_it(
    content: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(SettingsError, match="HMA_INTERNAL_KEY_FILE") as error:
        read_internal_keys(path)
    assert "short" not in error.value.message.replace("openssl", "")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"HMA_INTERNAL_KEY_FILE: .*nowhere"):
        read_internal_keys(tmp_path / "nowhere")


def test_the_gateway_is_known_by_any_of_the_keys() -> None:
    old, new = OLD.encode(), NEW.encode()
    assert is_gateway(gateway_credential(old), [new, old])
    assert not is_gateway(gateway_credential(old), [new])
    assert not is_gateway("", [new])
    assert not is_gateway("gateway.é", [new])
    # Who has the credential has not the key.
    assert OLD not in gateway_credential(old)
