"""Where a client finds its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from hma.client.credentials import CredentialSettings, KeyWarning, with_credentials
from hma.errors import InvalidRequest
from hma.settings import load


def test_a_key_that_is_given_counts_before_the_environments(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")
    file.chmod(0o600)
    environ = {"HMA_API_KEY": "from-variable", "HMA_API_KEY_FILE": str(file)}
    given = [("x-request-id", "7")]
    assert with_credentials(given, "given", environ) == (
        ("x-request-id", "7"),
        ("authorization", "Bearer given"),
    )
    assert with_credentials((), None, environ) == (("authorization", "Bearer from-variable"),)
    del environ["HMA_API_KEY"]
    assert with_credentials((), None, environ) == (("authorization", "Bearer from-file"),)
    assert with_credentials((), "", environ) == ()
    assert with_credentials((), None, {}) == ()


def test_a_credential_in_the_metadata_is_the_only_one() -> None:
    for name in ("Authorization", "x-api-key"):
        metadata = ((name, "mine"),)
        assert with_credentials(metadata, None, {"HMA_API_KEY": "other"}) == metadata


def test_a_wrong_key_is_not_repeated(tmp_path: Path) -> None:
    for key in ("two words", "naïve", "a\nb"):
        with pytest.raises(InvalidRequest) as error:
            with_credentials((), key, {})
        assert key not in str(error.value)
    with pytest.raises(InvalidRequest, match=r"HMA_API_KEY_FILE: .*nowhere"):
        with_credentials((), None, {"HMA_API_KEY_FILE": str(tmp_path / "nowhere")})


def test_a_key_in_the_settings_does_not_show_itself() -> None:
    assert "hidden" not in repr(load(CredentialSettings, {"HMA_API_KEY": "hidden"}))


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o440])
def test_a_key_file_for_its_owner_and_group_is_read_in_silence(tmp_path: Path, mode: int) -> None:
    environ = {"HMA_API_KEY_FILE": key_file(tmp_path, mode)}
    assert with_credentials((), None, environ) == (("authorization", "Bearer from-file"),)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602])
def test_a_key_file_that_everybody_can_open_is_read_with_a_warning(
    passable: Path, mode: int
) -> None:
    path = key_file(passable, mode)
    with pytest.warns(KeyWarning, match=rf"HMA_API_KEY_FILE: .*{mode:04o}.*chmod 600"):
        read = with_credentials((), None, {"HMA_API_KEY_FILE": path})
    assert read == (("authorization", "Bearer from-file"),)
    # A key that is given is not looked for in files.
    with_credentials((), "given", {"HMA_API_KEY_FILE": path})


def key_file(directory: Path, mode: int) -> str:
    file = directory / "key"
    file.write_text("from-file\n")
    file.chmod(mode)
    return str(file)
