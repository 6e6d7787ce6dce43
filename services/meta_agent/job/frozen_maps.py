"""Read-only mappings of the fold, and how to make the next one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def without(mapping: Mapping[K, V], key: K) -> Mapping[K, V]:
    """`mapping` less one key; itself when it has none such."""
    if key not in mapping:
        return mapping
    return MappingProxyType({name: value for name, value in mapping.items() if name != key})


def put(mapping: Mapping[K, V], key: K, value: V) -> Mapping[K, V]:
    """`mapping` with one entry more, or another."""
    return MappingProxyType({**mapping, key: value})
