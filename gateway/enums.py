"""The names of the numbers of the hub's enums: none, unless the operator sets them (`hub.enums`).

The hub writes an enum as a number, ASP.NET Core's default, or as a name. The vendor publishes some names and no number,
and the order in which a page names them proves nothing: C# authors usually write `Off, On`. So a number stays a number
and a name stays a name. Where the operator names the numbers, they become names from then on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from gateway.names import folded

PUBLISHED: Final[Mapping[str, frozenset[str]]] = {
    "SignalState": frozenset({"On", "Off"}),
    "OrderState": frozenset(),
    "PositionStatus": frozenset({"Created", "Closed", "Adjusted", "RealizedPnLChanged"}),
    "LegStatus": frozenset(),
    "AgentStatus": frozenset(),
    "AgentConnector": frozenset(),
    "ErrorState": frozenset(),
    "ConditionType": frozenset(),
    "ContractType": frozenset({"Stock", "Index", "Options", "Futures", "FuturesOptions"}),
    "OptionType": frozenset({"Call", "Put"}),
    "Operation": frozenset({"AddLegs", "RemoveLegs", "MoveLeg", "UpdateVars"}),
}
"""The enums of the reference, and of the objects in it, with the names that the vendor's pages give; in no order."""


class EnumNames:
    """The names that the operator gave to numbers, and what the hub was seen to write."""

    def __init__(self, named: Mapping[str, Sequence[str]] | None = None) -> None:
        """Take the names of each enum's numbers, from 0 on; raises KeyError for an enum that the reference has not."""
        self._by_number: dict[str, Sequence[str]] = dict.fromkeys(PUBLISHED, ())
        self._by_spelling = {enum: _spellings(names) for enum, names in PUBLISHED.items()}
        for enum, names in (named or {}).items():
            self._by_spelling[enum] |= _spellings(names)
            self._by_number[enum] = names
        self.as_numbers: set[str] = set()
        """Enums that were seen as numbers."""
        self.without_names: set[str] = set()
        """Enums that were seen as numbers that have no name."""
        self.as_names: set[str] = set()
        """Enums that were seen as names."""

    def read(self, enum: str, value: int | str) -> int | str:
        """Return what a value of `enum` is published as: a known name in its usual spelling, all else as it came.

        A text of digits is a number, as `JsonNumberHandling.WriteAsString` writes it: no name begins with a digit.
        """
        if isinstance(value, str):
            if _NUMBER.fullmatch(value) is None:
                self.as_names.add(enum)
                known = self._by_spelling[enum]
                return known.get(value.lower()) or known.get(folded(value), value)
            value = int(value.partition(".")[0])
        self.as_numbers.add(enum)
        names = self._by_number[enum]
        if 0 <= value < len(names):
            return names[value]
        self.without_names.add(enum)
        return value

    @property
    def forms(self) -> tuple[str, ...]:
        """Return the forms that the hub was seen to use: `names`, `numbers`, both or none."""
        return tuple(form for form, seen in (("names", self.as_names), ("numbers", self.as_numbers)) if seen)

    @property
    def unnamed(self) -> tuple[str, ...]:
        """Return the enums that were seen as numbers without a name, by alphabet."""
        return tuple(sorted(self.without_names))

    def described(self) -> str:
        """Return in a clause which forms the hub was seen to use, and which enums have numbers without names."""
        if not self.forms:
            return "no enum was seen in the last events"
        text = f"the hub writes enums as {' and '.join(self.forms)}"
        if self.unnamed:
            text += f" (published as numbers, since hub.enums does not name them: {', '.join(self.unnamed)})"
        return text


def _spellings(names: Collection[str]) -> dict[str, str]:
    """Return names by what their spellings under all naming policies have in common, and by their lower case."""
    return {folded(name): name for name in names} | {name.lower(): name for name in names}


_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.0{1,30})?")
"""A number as a text: one of 18 digits fits into any integer of .NET's."""
