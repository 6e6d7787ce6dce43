"""A setting of type `T | None` is None until it is set, and checked only then."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hma.errors import SettingsError
from hma.settings import at_least, describe, load, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Optional:
    price: float | None = setting("HMA_TEST_PRICE", None, "Money.", check=at_least(0))


def test_unset_and_empty_are_none_and_zero_is_zero() -> None:
    assert load(Optional, {}).price is None
    assert load(Optional, {"HMA_TEST_PRICE": " "}).price is None
    assert load(Optional, {"HMA_TEST_PRICE": "0"}).price == 0.0


def test_a_value_is_parsed_and_checked() -> None:
    with pytest.raises(SettingsError, match="HMA_TEST_PRICE: expected 0 or more"):
        load(Optional, {"HMA_TEST_PRICE": "-1"})
    with pytest.raises(SettingsError, match="HMA_TEST_PRICE: expected a number"):
        load(Optional, {"HMA_TEST_PRICE": "dear"})


def test_it_is_described_as_what_it_is_when_set() -> None:
    (described,) = describe(Optional)
    assert (described.kind, described.default) == ("float", "")
