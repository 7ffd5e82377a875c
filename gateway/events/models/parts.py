"""The objects that several payloads share, and `Part`, by which every modelled object is read.

The reference does not give these objects; their shapes are from the vendor's other pages and from recorded
frames. So every member may be missing, and one of another type than the usual is carried as it came: a dead letter
would cost more than a loose type.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from gateway.events.models import fields
from gateway.events.times import ticks
from gateway.names import folded

__all__ = [
    "LiveContract",
    "LiveLeg",
    "LivePrices",
    "Part",
    "PreparePositionAdjustmentResult",
    "PreparePositionEntryResult",
    "PreparePositionExitResult",
    "ticks",
]


class Part(BaseModel):
    """A modelled object: its own members in any spelling, unknown ones kept after them as they came."""

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
            spelling: name for name in cls.model_fields for spelling in (name, name[0].lower() + name[1:], folded(name))
        }

    @model_validator(mode="before")
    @classmethod
    def _fold_names(cls, members: Any) -> Any:  # noqa: ANN401 - whatever stands there
        if not isinstance(members, dict):
            return members
        spellings = cls._spellings
        found: dict[str, Any] = {}
        for name, value in members.items():
            known = spellings.get(name) or spellings.get(folded(name)) or name
            if known in found:
                raise PydanticCustomError(fields.DUPLICATE, "{name} stands twice, in two spellings", {"name": known})
            found[known] = value
        return found


class LiveContract(Part):
    """What a leg trades."""

    ContractType: fields.Guessed[fields.ContractType] = Field(default=None, description="Kind of contract.")
    Underlying: fields.Guessed[fields.Text] = Field(default=None, description="Symbol of the underlying.")
    Root: fields.Guessed[fields.Text] = Field(default=None, description="Root symbol, of options and futures.")
    OptionType: fields.Guessed[fields.OptionType] = Field(default=None, description="Call or put, of options.")
    Expiration: fields.Guessed[fields.Time] = Field(default=None, description="When the contract expires.")
    Strike: fields.Guessed[fields.Amount] = Field(default=None, description="Strike price, of options.")
    Multiplier: fields.Guessed[fields.Amount] = Field(
        default=None, description="Units of the underlying in one contract."
    )


_Contract = LiveContract  # a field has the name of its type


class LiveLeg(Part):
    """One leg of a live position."""

    Id: fields.Guessed[fields.Int] = Field(default=None, description="Live leg id.")
    Name: fields.Guessed[fields.Text] = Field(default=None, description="Leg name.")
    LiveContract: fields.Guessed[_Contract] = Field(default=None, description="Contract of the leg.")
    LegGroupId: fields.Guessed[fields.Int] = Field(default=None, description="Leg group the leg belongs to.")
    CreatedAt: fields.Guessed[fields.Time] = Field(default=None, description="When the leg was created.")
    ClosedAt: fields.Guessed[fields.Time] = Field(
        default=None, description="When the leg was closed; null while it is open."
    )
    LivePositionId: fields.Guessed[fields.Int] = Field(default=None, description="Live position id the leg belongs to.")
    AccountId: fields.Guessed[fields.Text] = Field(default=None, description="Broker account id the leg belongs to.")
    Underlying: fields.Guessed[fields.Text] = Field(default=None, description="Symbol of the underlying.")
    Qty: fields.Guessed[fields.Amount] = Field(default=None, description="Quantity; negative when short.")
    AvgEntryPrice: fields.Guessed[fields.Amount] = Field(default=None, description="Average entry price.")
    UserSetRealizedPnL: fields.Guessed[fields.Amount] = Field(
        default=None, description="Realized PnL as the user set it."
    )
    TrackedRealizedPnL: fields.Guessed[fields.Amount] = Field(
        default=None, description="Realized PnL as the hub tracked it."
    )


class LivePrices(Part):
    """Prices of a leg, a leg group or a position at one time."""

    SnapshotTime: fields.Guessed[fields.Time] = Field(default=None, description="When the prices were taken.")
    Bid: fields.Guessed[fields.Amount] = Field(default=None, description="Bid price.")
    Ask: fields.Guessed[fields.Amount] = Field(default=None, description="Ask price.")
    Last: fields.Guessed[fields.Amount] = Field(default=None, description="Last traded price.")
    Mark: fields.Guessed[fields.Amount] = Field(default=None, description="Mark price.")
    BidAgeMs: fields.Guessed[fields.Amount] = Field(default=None, description="Age of the bid in milliseconds.")
    AskAgeMs: fields.Guessed[fields.Amount] = Field(default=None, description="Age of the ask in milliseconds.")
    LastAgeMs: fields.Guessed[fields.Amount] = Field(default=None, description="Age of the last price in milliseconds.")
    MarkAgeMs: fields.Guessed[fields.Amount] = Field(default=None, description="Age of the mark in milliseconds.")


class Prepared(Part):
    """What the three kinds of prepared plans have in common; it stands before their own members."""

    ExecPlanId: fields.Guessed[fields.Int] = Field(default=None, description="Execution plan id.")
    PositionName: fields.Guessed[fields.Text] = Field(default=None, description="Position name.")
    StrategyId: fields.Guessed[fields.Int] = Field(default=None, description="Live strategy id.")
    StrategyName: fields.Guessed[fields.Text] = Field(default=None, description="Strategy name.")
    BrokerAccountId: fields.Guessed[fields.Text] = Field(default=None, description="Broker account id.")
    LegGroups: fields.Guessed[dict[str, fields.Guessed[list[fields.Guessed[fields.Text]]]]] = Field(
        default=None, description="Leg group id → names of its legs."
    )
    LegGroupQtys: fields.Guessed[dict[str, fields.Open]] = Field(
        default=None, description="Leg group id → its quantities, as the hub gave them."
    )
    Vars: fields.Guessed[dict[str, fields.Guessed[fields.Amount]]] = Field(
        default=None, description="Variable name → value."
    )
    LegGreeks: fields.Guessed[dict[str, fields.Open]] = Field(
        default=None, description="Leg name → its greeks, as the hub gave them."
    )
    LegPrices: fields.Guessed[dict[str, fields.Guessed[LivePrices]]] = Field(
        default=None, description="Leg name → its prices."
    )
    LegGroupGreeks: fields.Guessed[dict[str, fields.Open]] = Field(
        default=None, description="Leg group id → its greeks, as the hub gave them."
    )
    LegGroupPrices: fields.Guessed[dict[str, fields.Guessed[LivePrices]]] = Field(
        default=None, description="Leg group id → its prices."
    )
    PositionGreeks: fields.Open = Field(default=None, description="Greeks of the position, as the hub gave them.")
    PositionPrice: fields.Guessed[LivePrices] = Field(default=None, description="Prices of the position.")
    UnderlyingPrice: fields.Open = Field(default=None, description="Price of the underlying, as the hub gave it.")


class PreparePositionEntryResult(Prepared):
    """A prepared entry: the legs that were selected and what allows or forbids it."""

    SelectedLegs: fields.Guessed[dict[str, fields.Guessed[LiveLeg]]] = Field(
        default=None, description="Leg name → the selected leg."
    )
    AbortConditions: fields.Guessed[list[fields.Open]] = Field(
        default=None, description="Conditions that abort the plan."
    )
    EntryConditions: fields.Guessed[list[fields.Open]] = Field(default=None, description="Conditions of the entry.")
    EntryAllowed: fields.Guessed[fields.Flag] = Field(default=None, description="Whether the entry is allowed.")
    QtyMultiplier: fields.Guessed[fields.Amount] = Field(default=None, description="Multiplier of all quantities.")


class PreparePositionExitResult(Prepared):
    """A prepared exit of one position."""

    PositionId: fields.Guessed[fields.Int] = Field(default=None, description="Live position id.")
    PositionLegs: fields.Guessed[dict[str, fields.Guessed[LiveLeg]]] = Field(
        default=None, description="Leg name → the position's leg."
    )


class PreparePositionAdjustmentResult(Prepared):
    """A prepared adjustment of one position."""

    Operation: fields.Guessed[fields.Operation] = Field(default=None, description="What is done to the position.")
    Condition: fields.Open = Field(default=None, description="Condition of the adjustment, as the hub gave it.")
    PositionId: fields.Guessed[fields.Int] = Field(default=None, description="Live position id.")
    OrderLegs: fields.Guessed[dict[str, fields.Guessed[LiveLeg]]] = Field(
        default=None, description="Leg name → the leg to order."
    )
    QtyMultiplier: fields.Guessed[fields.Amount] = Field(default=None, description="Multiplier of all quantities.")
    AbortConditions: fields.Guessed[list[fields.Open]] = Field(
        default=None, description="Conditions that abort the plan."
    )
    AdjustmentAllowed: fields.Guessed[fields.Flag] = Field(
        default=None, description="Whether the adjustment is allowed."
    )
