"""The objects that several payloads share, and `Part`, by which every modelled object is read.

The reference does not give these objects; their shapes are from the vendor's other pages and from recorded
frames. A contract and a leg must have what those pages name without a question mark. All else is optional,
and what no page gives is carried as it came: a dead letter would cost more than a loose type.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from gateway.events import fields
from gateway.events.times import ticks

__all__ = [
    "DUPLICATE",
    "LiveContract",
    "LiveLeg",
    "LivePrices",
    "Part",
    "PreparePositionAdjustmentResult",
    "PreparePositionEntryResult",
    "PreparePositionExitResult",
    "ticks",
]

DUPLICATE: Final = "duplicate_member"
"""The type of the validation error of two members that spell one modelled name."""


class Part(BaseModel):
    """A modelled object: its own members in any letter case, unknown ones kept after them as they came."""

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        json_schema_serialization_defaults_required=True,
    )

    _spellings: ClassVar[dict[str, str]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - pydantic's signature
        """Note the usual spellings of the model's names, so that most lookups are one."""
        super().__pydantic_init_subclass__(**kwargs)
        cls._spellings = {
            spelling: name for name in cls.model_fields for spelling in (name, name[0].lower() + name[1:], name.lower())
        }

    @classmethod
    def spellings(cls) -> dict[str, str]:
        """Give the model's names by their usual spellings."""
        return cls._spellings

    @model_validator(mode="before")
    @classmethod
    def _fold_names(cls, members: Any) -> Any:  # noqa: ANN401 - whatever stands there
        if not isinstance(members, dict):
            return members
        spellings = cls._spellings
        folded: dict[str, Any] = {}
        for name, value in members.items():
            known = spellings.get(name) or spellings.get(name.lower() if name.isascii() else name) or name
            if known in folded:
                raise PydanticCustomError(DUPLICATE, "{name} stands twice, in two spellings", {"name": known})
            folded[known] = value
        return folded


class LiveContract(Part):
    """What a leg trades."""

    ContractType: fields.ContractType = Field(description="Kind of contract.")
    Underlying: fields.Text = Field(description="Symbol of the underlying.")
    Root: fields.Text | None = Field(default=None, description="Root symbol, of options and futures.")
    OptionType: fields.OptionType | None = Field(default=None, description="Call or put, of options.")
    Expiration: fields.Time | None = Field(default=None, description="When the contract expires.")
    Strike: fields.Amount | None = Field(default=None, description="Strike price, of options.")
    Multiplier: fields.Amount | None = Field(default=None, description="Units of the underlying in one contract.")


_Contract = LiveContract  # a field has the name of its type


class LiveLeg(Part):
    """One leg of a live position."""

    Id: fields.Int = Field(description="Live leg id.")
    Name: fields.Text = Field(description="Leg name.")
    LiveContract: _Contract = Field(description="Contract of the leg.")
    LegGroupId: fields.Int = Field(description="Leg group the leg belongs to.")
    CreatedAt: fields.Time = Field(description="When the leg was created.")
    ClosedAt: fields.Time | None = Field(default=None, description="When the leg was closed; null while it is open.")
    LivePositionId: fields.Int = Field(description="Live position id the leg belongs to.")
    AccountId: fields.Text | None = Field(default=None, description="Broker account id the leg belongs to.")
    Underlying: fields.Text = Field(description="Symbol of the underlying.")
    Qty: fields.Amount = Field(description="Quantity; negative when short.")
    AvgEntryPrice: fields.Amount | None = Field(default=None, description="Average entry price.")
    UserSetRealizedPnL: fields.Amount | None = Field(default=None, description="Realized PnL as the user set it.")
    TrackedRealizedPnL: fields.Amount | None = Field(default=None, description="Realized PnL as the hub tracked it.")


class LivePrices(Part):
    """Prices of a leg, a leg group or a position at one time."""

    SnapshotTime: fields.Time | None = Field(default=None, description="When the prices were taken.")
    Bid: fields.Amount | None = Field(default=None, description="Bid price.")
    Ask: fields.Amount | None = Field(default=None, description="Ask price.")
    Last: fields.Amount | None = Field(default=None, description="Last traded price.")
    Mark: fields.Amount | None = Field(default=None, description="Mark price.")
    BidAgeMs: fields.Amount | None = Field(default=None, description="Age of the bid in milliseconds.")
    AskAgeMs: fields.Amount | None = Field(default=None, description="Age of the ask in milliseconds.")
    LastAgeMs: fields.Amount | None = Field(default=None, description="Age of the last price in milliseconds.")
    MarkAgeMs: fields.Amount | None = Field(default=None, description="Age of the mark in milliseconds.")


class Prepared(Part):
    """What the three kinds of prepared plans have in common; it stands before their own members."""

    ExecPlanId: fields.Int | None = Field(default=None, description="Execution plan id.")
    PositionName: fields.Text | None = Field(default=None, description="Position name.")
    StrategyId: fields.Int | None = Field(default=None, description="Live strategy id.")
    StrategyName: fields.Text | None = Field(default=None, description="Strategy name.")
    BrokerAccountId: fields.Text | None = Field(default=None, description="Broker account id.")
    LegGroups: dict[str, list[fields.Text]] | None = Field(
        default=None, description="Leg group id → names of its legs."
    )
    LegGroupQtys: dict[str, fields.Open] | None = Field(
        default=None, description="Leg group id → its quantities, as the hub gave them."
    )
    Vars: dict[str, fields.Amount] | None = Field(default=None, description="Variable name → value.")
    LegGreeks: dict[str, fields.Open] | None = Field(
        default=None, description="Leg name → its greeks, as the hub gave them."
    )
    LegPrices: dict[str, LivePrices | None] | None = Field(default=None, description="Leg name → its prices.")
    LegGroupGreeks: dict[str, fields.Open] | None = Field(
        default=None, description="Leg group id → its greeks, as the hub gave them."
    )
    LegGroupPrices: dict[str, LivePrices | None] | None = Field(default=None, description="Leg group id → its prices.")
    PositionGreeks: fields.Open = Field(default=None, description="Greeks of the position, as the hub gave them.")
    PositionPrice: LivePrices | None = Field(default=None, description="Prices of the position.")
    UnderlyingPrice: fields.Open = Field(default=None, description="Price of the underlying, as the hub gave it.")


class PreparePositionEntryResult(Prepared):
    """A prepared entry: the legs that were selected and what allows or forbids it."""

    SelectedLegs: dict[str, LiveLeg] | None = Field(default=None, description="Leg name → the selected leg.")
    AbortConditions: list[fields.Open] | None = Field(default=None, description="Conditions that abort the plan.")
    EntryConditions: list[fields.Open] | None = Field(default=None, description="Conditions of the entry.")
    EntryAllowed: fields.Flag | None = Field(default=None, description="Whether the entry is allowed.")
    QtyMultiplier: fields.Amount | None = Field(default=None, description="Multiplier of all quantities.")


class PreparePositionExitResult(Prepared):
    """A prepared exit of one position."""

    PositionId: fields.Int | None = Field(default=None, description="Live position id.")
    PositionLegs: dict[str, LiveLeg] | None = Field(default=None, description="Leg name → the position's leg.")


class PreparePositionAdjustmentResult(Prepared):
    """A prepared adjustment of one position."""

    Operation: fields.Operation | None = Field(default=None, description="What is done to the position.")
    Condition: fields.Open = Field(default=None, description="Condition of the adjustment, as the hub gave it.")
    PositionId: fields.Int | None = Field(default=None, description="Live position id.")
    OrderLegs: dict[str, LiveLeg] | None = Field(default=None, description="Leg name → the leg to order.")
    QtyMultiplier: fields.Amount | None = Field(default=None, description="Multiplier of all quantities.")
    AbortConditions: list[fields.Open] | None = Field(default=None, description="Conditions that abort the plan.")
    AdjustmentAllowed: fields.Flag | None = Field(default=None, description="Whether the adjustment is allowed.")
