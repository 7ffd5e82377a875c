"""The payloads of the 17 callbacks: one function each returns a payload's members, with the reference's names.

The order of members is the recorded one: a subclass's before its base class's. EventId, EventSeqId and EventTime, which
end every payload, are not here: `gateway.simulator.events` adds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from gateway.simulator.wire import Dictionary, Member, Number, Slot, Tree, WireTime

NAMES: Final = (
    "Iron Condor 45DTE",
    "Call \"A\" <&> 'b'",
    "back\\slash\ttab",
    "Zürich – ライブ \U0001f98b",  # noqa: RUF001 - a dash that ASCII does not have, on purpose
    "Straddle + hedge",
    "100 % hedged / \u00e9t\u00e9",
)
"""Names that a careless reader or writer of JSON spoils."""

_UNDERLYINGS: Final = ("SPX", "SPY", "QQQ", "/ES", "BRK.B")
_LARGEST: Final = Number("79228162514264337593543950335")


def _enum(enum: str, *names: str) -> tuple[Member, ...]:
    return tuple(Member(name, number, enum) for number, name in enumerate(names))


SIGNAL_STATE: Final = _enum("SignalState", "Off", "On")
ORDER_STATE: Final = _enum("OrderState", "Pending", "Submitted", "PartiallyFilled", "Filled", "Cancelled", "Rejected")
POSITION_STATUS: Final = _enum("PositionStatus", "Adjusted", "Closed", "Created", "RealizedPnLChanged")
LEG_STATUS: Final = _enum("LegStatus", "Created", "Closed", "QtyChanged")
AGENT_STATUS: Final = _enum("AgentStatus", "Connected", "Disconnected", "Error")
AGENT_CONNECTOR: Final = _enum("AgentConnector", "InteractiveBrokers", "Schwab", "Tradier")
ERROR_STATE: Final = _enum("ErrorState", "Off", "On")
CONDITION_TYPE: Final = _enum("ConditionType", "Entry", "Exit", "Adjustment")
CONTRACT_TYPE: Final = _enum("ContractType", "Futures", "FuturesOptions", "Options", "Index", "Stock")
OPTION_TYPE: Final = _enum("OptionType", "Put", "Call")
ENUMS: Final = {
    members[0].enum: members
    for members in (
        *(SIGNAL_STATE, ORDER_STATE, POSITION_STATUS, LEG_STATUS, AGENT_STATUS),
        *(AGENT_CONNECTOR, ERROR_STATE, CONDITION_TYPE, CONTRACT_TYPE, OPTION_TYPE),
    )
}
"""The enums of this hub in the order in which it declares them: its own, for the vendor publishes none."""


@dataclass(frozen=True, slots=True)
class PayloadContext:
    """What a payload is about: the strategy, its position and broker account, and the dice."""

    dice: Random
    strategy: int

    @property
    def strategy_members(self) -> Mapping[str, Tree]:
        """The two members that name the strategy."""
        return {"StrategyId": self.strategy, "StrategyName": f"S{self.strategy} {self.name()}"}

    @property
    def position_members(self) -> Mapping[str, Tree]:
        """The two members that name a position of the strategy."""
        return {"PositionId": self.position(), "PositionName": self.name()}

    @property
    def broker_account(self) -> str:
        """The broker account of the strategy: one user has several."""
        return f"U{1000 + self.strategy % 3}"

    def chance(self, share: float) -> bool:
        """Be true in a `share` of all cases."""
        return self.dice.random() < share

    def maybe(self, value: Tree, share: float = 0.7) -> Tree:
        """Return `value`, or null now and then."""
        return value if self.chance(share) else None

    def name(self) -> str:
        """Return a name that is hard to carry."""
        return self.dice.choice(NAMES)

    def position(self) -> int:
        """Return a position's id."""
        return self.strategy * 100 + self.dice.randrange(20)

    def number(self, low: int, high: int, digits: int) -> Number:
        """Return a decimal with a fixed scale."""
        return Number(f"{self.dice.uniform(low, high):.{digits}f}")

    def moment(self) -> WireTime:
        """Return a time with up to seven digits."""
        dice = self.dice
        fraction = f".{dice.randrange(10_000_000):07d}".rstrip("0")
        day, hour, minute = dice.randint(5, 30), dice.randint(14, 20), dice.randrange(60)
        return WireTime(f"2026-01-{day:02d}T{hour}:{minute:02d}:07{fraction}Z")


def _condition(scene: PayloadContext) -> Tree:
    dice = scene.dice
    values: dict[str, Tree] = {
        "PosDelta": scene.number(-2500, 2500, 4),
        "DIT": dice.randrange(60),
        "IVRank_pct": Number("0.10"),
    }
    return {
        "Statement": f"PosDelta > {dice.randrange(25)} && DIT >= {dice.randrange(50)}",
        "Result": scene.chance(0.5),
        "Values": Dictionary(values),
    }


def _conditions(scene: PayloadContext) -> Tree:
    return [_condition(scene) for _ in range(scene.dice.randint(1, 2))]


def _contract(scene: PayloadContext) -> Tree:
    dice = scene.dice
    return {
        "ContractType": CONTRACT_TYPE[2],
        "Underlying": dice.choice(_UNDERLYINGS),
        "Root": "SPXW",
        "OptionType": dice.choice(OPTION_TYPE),
        "Expiration": WireTime(f"2026-12-{dice.randint(1, 31):02d}T00:00:00Z"),
        "Strike": Number(f"{dice.randint(3000, 5500)}.5"),
        "Multiplier": 100,
    }


def _leg(scene: PayloadContext, name: str) -> Tree:
    return {
        "Id": Slot("id"),
        "Name": name,
        "LiveContract": _contract(scene),
        "LegGroupId": scene.dice.randrange(4),
        "CreatedAt": scene.moment(),
        "ClosedAt": None,
        "LivePositionId": scene.position(),
        "AccountId": scene.broker_account,
        "Underlying": "SPX",
        "Qty": scene.dice.randint(-9, 9),
        "AvgEntryPrice": Slot("money"),
        "UserSetRealizedPnL": None,
        "TrackedRealizedPnL": scene.maybe(scene.number(-2500, 2500, 2), 0.4),
    }


def _greeks(scene: PayloadContext) -> Tree:
    return {
        "Delta": scene.number(-1, 1, 10),
        "Gamma": Number("0.000012"),
        "Theta": Number("-1.50"),
        "Vega": scene.number(-2500, 2500, 3),
    }


def _prices(scene: PayloadContext) -> Tree:
    return {
        "SnapshotTime": scene.moment(),
        "Bid": Number("1.10"),
        "Ask": Number("1.20"),
        "Last": None,
        "Mark": Number("1.150"),
        "BidAgeMs": scene.dice.randrange(1000),
        "AskAgeMs": scene.dice.randrange(1000),
        "LastAgeMs": None,
        "MarkAgeMs": None,
    }


def _prepared(scene: PayloadContext) -> Mapping[str, Tree]:
    """Members that the three prepare results share."""
    legs = ("short_put", "Long_Put")
    variables: dict[str, Tree] = {
        "maxLoss": Number("-1234.50"),
        "TargetPct": Number("0.25"),
        "x_y": scene.number(-2000, 2000, 2),
    }
    return {
        "ExecPlanId": Slot("id"),
        "PositionName": f"pos {scene.name()}",
        **scene.strategy_members,
        "BrokerAccountId": scene.broker_account,
        "LegGroups": Dictionary({"0": ["short_put", "long_put"], "1": ["short_call"]}),
        "LegGroupQtys": Dictionary({"0": {"Open": 1, "Close": 0}, "1": {"Open": Number("2.5"), "Close": 0}}),
        "Vars": Dictionary(variables),
        "LegGreeks": Dictionary({leg: _greeks(scene) for leg in legs}),
        "LegPrices": Dictionary({leg: _prices(scene) for leg in legs}),
        "PositionGreeks": _greeks(scene),
        "PositionPrice": _prices(scene),
        "UnderlyingPrice": Number("5012.34"),
    }


def _job(scene: PayloadContext) -> Mapping[str, Tree]:
    """Members that the events of jobs share."""
    return {"JobId": Slot("job"), **scene.strategy_members, "BrokerAccountId": scene.maybe(scene.broker_account, 0.9)}


def _entry_signal(scene: PayloadContext) -> Mapping[str, Tree]:
    return {
        "State": scene.dice.choice(SIGNAL_STATE),
        **scene.strategy_members,
        "BrokerAccountId": scene.broker_account,
        "EntrySignalResult": scene.maybe({"Allowed": True, "Conditions": _conditions(scene)}),
    }


def _exit_signal(scene: PayloadContext) -> Mapping[str, Tree]:
    return {
        "State": scene.dice.choice(SIGNAL_STATE),
        **scene.strategy_members,
        **scene.position_members,
        "BrokerAccountId": scene.maybe(scene.broker_account, 0.9),
        "ExitSignalResult": scene.maybe({"Triggered": False, "Conditions": _conditions(scene)}),
    }


def _adjustment_signal(scene: PayloadContext) -> Mapping[str, Tree]:
    return {
        "State": scene.dice.choice(SIGNAL_STATE),
        **scene.strategy_members,
        **scene.position_members,
        "BrokerAccountId": scene.maybe(scene.broker_account, 0.9),
        "AdjustmentTimeOk": scene.chance(0.5),
        "Condition": _condition(scene),
    }


def _order_update(scene: PayloadContext) -> Mapping[str, Tree]:
    state = scene.dice.choice(ORDER_STATE)
    rejection: Tree = {"Code": "201", "Reason": 'margin "short" by 0.10', "Retryable": False, "Detail": None}
    return {
        "OrderId": Slot("id"),
        "BrokerAccountId": scene.maybe(scene.broker_account, 0.9),
        "ExecPlanId": scene.maybe(scene.dice.randrange(1_000_000)),
        "LegGroupId": scene.maybe(scene.dice.randrange(3)),
        **scene.strategy_members,
        "State": state,
        "FilledQty": scene.maybe(scene.number(0, 9, 1)),
        "RemainingQty": scene.maybe(Number("0.0")),
        "FillPrice": scene.maybe(Slot("money")),
        "AvgFillPrice": scene.maybe(scene.number(-2500, 2500, 8)),
        "Rejection": rejection if state.name == "Rejected" else None,
    }


def _position_update(scene: PayloadContext) -> Mapping[str, Tree]:
    return {
        "PositionId": scene.position(),
        **scene.strategy_members,
        "PositionName": scene.name(),
        "BrokerAccountId": scene.broker_account,
        "Status": scene.dice.choice(POSITION_STATUS),
        "RealizedPnL": Slot("money"),
    }


def _leg_update(scene: PayloadContext) -> Mapping[str, Tree]:
    return {
        "BrokerAccountId": scene.broker_account,
        **scene.position_members,
        **scene.strategy_members,
        "LegId": Slot("id"),
        "LegName": "long_call",
        "Contract": _contract(scene),
        "Status": scene.dice.choice(LEG_STATUS),
        "Qty": scene.dice.randint(-9, 9),
        "RealizedPnL": Slot("money"),
    }


def _agent_status_change(scene: PayloadContext) -> Mapping[str, Tree]:
    return {
        "Status": scene.dice.choice(AGENT_STATUS),
        "Message": f"agent: {scene.name()}",
        "Connector": scene.maybe(scene.dice.choice(AGENT_CONNECTOR)),
    }


def _error(scene: PayloadContext) -> Mapping[str, Tree]:
    of_strategy = scene.chance(0.7)
    about = {**scene.strategy_members, **scene.position_members}
    return {
        "State": scene.dice.choice(ERROR_STATE),
        "ErrorId": Slot("uuid"),
        **(about if of_strategy else dict.fromkeys(about)),
        "BrokerAccountId": scene.broker_account if of_strategy else None,
        "Message": scene.maybe("eval failed: \u201cno quote\u201d\r\nat step 2"),
        "ConditionType": scene.maybe(scene.dice.choice(CONDITION_TYPE)),
        "Statement": scene.maybe("Leg('x').Delta < 0.1"),
    }


def _entry_completed(scene: PayloadContext) -> Mapping[str, Tree]:
    result: Tree = {
        "SelectedLegs": Dictionary({name: _leg(scene, "short_put") for name in ("short_put", "Long_Put")}),
        "AbortConditions": scene.maybe(_conditions(scene)),
        "EntryConditions": _conditions(scene),
        "EntryAllowed": True,
        "QtyMultiplier": 1,
        **_prepared(scene),
    }
    return {"Result": result, **_job(scene)}


def _exit_completed(scene: PayloadContext) -> Mapping[str, Tree]:
    legs = Dictionary({"short_put": _leg(scene, "short_put")})
    return {"Result": {"PositionId": scene.position(), "PositionLegs": legs, **_prepared(scene)}, **_job(scene)}


def _adjustment_completed(scene: PayloadContext) -> Mapping[str, Tree]:
    result: Tree = {
        "Operation": scene.dice.choice(("AddLegs", "RemoveLegs", "MoveLeg", "UpdateVars")),
        "Condition": "DIT > 10",
        "PositionId": scene.position(),
        "OrderLegs": Dictionary({"short_call": _leg(scene, "short_put")}),
        "QtyMultiplier": scene.maybe(2, 0.3),
        "AbortConditions": scene.maybe(_conditions(scene), 0.3),
        "AdjustmentAllowed": True,
        **_prepared(scene),
    }
    return {"Result": result, **_job(scene)}


def _auto_update(scene: PayloadContext) -> Mapping[str, Tree]:
    return {
        "JobId": Slot("job"),
        **scene.strategy_members,
        **scene.position_members,
        "BrokerAccountId": scene.maybe(scene.broker_account, 0.9),
        "Condition": "AutoUpdate: DIT > 3",
    }


def _auto_update_completed(scene: PayloadContext) -> Mapping[str, Tree]:
    updated: dict[str, Tree] = {"MaxLoss": Number("-100.10"), "max_loss": Slot("money"), "tgt": _LARGEST}
    return {"UpdatedVars": Dictionary(updated), **_auto_update(scene)}


def _failed(
    error: str, members: Callable[[PayloadContext], Mapping[str, Tree]]
) -> Callable[[PayloadContext], Mapping[str, Tree]]:
    return lambda scene: {"Error": error, **members(scene)}


UNKNOWN_MEMBERS: Final[Mapping[str, Tree]] = {
    "Venue": "ISE",
    "Extension": {"Ratio": Number("0.100"), "Tags": ["a", None, True], "Nested": {"PnL": Number("-0.0"), "X": 7}},
}
"""Members that a later release of the hub might add to any event."""

SHAPES: Final[Mapping[str, Callable[[PayloadContext], Mapping[str, Tree]]]] = {
    "OnEntrySignal": _entry_signal,
    "OnExitSignal": _exit_signal,
    "OnAdjustmentSignal": _adjustment_signal,
    "OnOrderUpdate": _order_update,
    "OnPositionUpdate": _position_update,
    "OnLegUpdate": _leg_update,
    "OnAgentStatusChange": _agent_status_change,
    "OnError": _error,
    "OnPositionEntryPreparationCompleted": _entry_completed,
    "OnPositionEntryPreparationFailed": _failed("no matching expiration", _job),
    "OnPositionExitPreparationCompleted": _exit_completed,
    "OnPositionExitPreparationFailed": _failed("no quotes", _job),
    "OnPositionAdjustmentPreparationCompleted": _adjustment_completed,
    "OnPositionAdjustmentPreparationFailed": _failed("vars not set", _job),
    "OnAutoUpdateVarsAdjustmentStarted": _auto_update,
    "OnAutoUpdateVarsAdjustmentCompleted": _auto_update_completed,
    "OnAutoUpdateVarsAdjustmentFailed": _failed("timeout", _auto_update),
}
"""The 17 callbacks in the reference's order."""
