"""What a probe has found, and the profile that follows from it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hma.llm.calibration import Calibration
from hma.llm.profiles import PRESETS, Profile


class Standing(enum.Enum):
    """How a feature stands."""

    MEASURED = "measured"
    NOT_MEASURED = "not measured"
    DOES_NOT_APPLY = "does not apply"


@dataclass(frozen=True, slots=True)
class Finding:
    """One feature.

    Attributes:
        feature: Its key in a profile, or a name of its own.
        standing: Whether it was measured.
        value: What was found; None unless it was measured.
        note: How, or why not.
    """

    feature: str
    standing: Standing
    value: Any
    note: str

    @classmethod
    def measured(cls, feature: str, value: Any, note: str) -> Finding:
        """A feature that was measured."""
        return cls(feature, Standing.MEASURED, value, note)

    @classmethod
    def missed(cls, feature: str, why: str) -> Finding:
        """A feature that could not be measured."""
        return cls(feature, Standing.NOT_MEASURED, None, why)

    @classmethod
    def void(cls, feature: str, why: str) -> Finding:
        """A feature that there is no point in measuring."""
        return cls(feature, Standing.DOES_NOT_APPLY, None, why)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that a probe has found.

    Attributes:
        route: The route's name.
        model: As the server names it; empty when it never said.
        profile: What the route's profile was before.
        features: Each feature, in the order of measuring.
        budget: Tokens that the probe had.
        spent: Tokens that it took, at most.
        calls: Calls that it made.
        seconds: How long it took.
    """

    route: str
    model: str
    profile: Profile
    features: tuple[Finding, ...]
    budget: int
    spent: int
    calls: int
    seconds: float

    @property
    def values(self) -> Mapping[str, Any]:
        """What was measured, by feature."""
        return {f.feature: f.value for f in self.features if f.standing is Standing.MEASURED}

    @property
    def missing(self) -> tuple[str, ...]:
        """Features that could not be measured."""
        return tuple(f.feature for f in self.features if f.standing is Standing.NOT_MEASURED)

    @property
    def measured_profile(self) -> dict[str, Any]:
        """The keys of a profile that were measured."""
        keys = [field.name for field in fields(Profile)]
        values = {key: self.values[key] for key in keys if key in self.values}
        if isinstance(values.get("calibration"), Calibration):
            values["calibration"] = values["calibration"].to_table()
        return values

    @property
    def whole_profile(self) -> dict[str, Any]:
        """The table of a new profile: its base, what was measured, what was set before."""
        base = _nearest_preset(self.profile)
        measured = self.measured_profile
        table: dict[str, Any] = {"base": base}
        for field in fields(Profile):
            before = getattr(self.profile, field.name)
            if field.name in measured:
                table[field.name] = measured[field.name]
            elif before != getattr(PRESETS[base], field.name):
                table[field.name] = before.to_table() if isinstance(before, Calibration) else before
        return table


def _nearest_preset(profile: Profile) -> str:
    """The preset that a profile differs from in the fewest fields."""

    def differences(name: str) -> int:
        preset = PRESETS[name]
        return sum(getattr(profile, f.name) != getattr(preset, f.name) for f in fields(Profile))

    return min(PRESETS, key=differences)
