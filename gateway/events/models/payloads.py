"""The contract: the payloads of the hub's 17 callbacks, with every field in the order of the vendor's reference.

Names, types, optionality and descriptions are the reference's ("SignalR Reference: Event Hub"). A field that is not
Required, or is Nullable and left out by a serializer that ignores nulls, may be missing or null; it is then written as
null. An unknown field is kept after the known ones.
"""

from __future__ import annotations

from pydantic import Field

from gateway.events.models import fields
from gateway.events.models.parts import (
    LiveContract,
    Part,
    PreparePositionAdjustmentResult,
    PreparePositionEntryResult,
    PreparePositionExitResult,
)


class EventPayload(Part):
    """What every event has: who it is, its place in the order, and when it happened."""

    EventId: fields.Uuid | None = Field(default=None, description="Stable unique identifier for this event instance.")
    EventSeqId: fields.Sequence | None = Field(
        default=None, description="Server-assigned event sequence id used for ordering and replay/history APIs."
    )
    EventTime: fields.Time = Field(description="UTC timestamp when the event occurred on the server.")


class EntrySignalEvent(EventPayload):
    """Called when an entry signal is evaluated and/or changes state for a strategy."""

    State: fields.SignalState = Field(description="Entry signal state (On/Off).")
    StrategyId: fields.Int = Field(description="Live strategy id this signal belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    BrokerAccountId: fields.Text = Field(description="Broker account id this signal is associated with.")
    EntrySignalResult: fields.Open = Field(
        default=None, description="Optional detailed evaluation results for entry checks (may be null if not included)."
    )


class ExitSignalEvent(EventPayload):
    """Called when an exit signal is evaluated and/or changes state for a position."""

    State: fields.SignalState = Field(description="Exit signal state (On/Off).")
    StrategyId: fields.Int = Field(description="Live strategy id this position belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    PositionId: fields.Int = Field(description="Live position id this exit signal applies to.")
    PositionName: fields.Text = Field(description="Position name at the time of the event.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id this position belongs to (may be null in some contexts)."
    )
    ExitSignalResult: fields.Open = Field(
        default=None, description="Optional detailed evaluation results for exit checks (may be null if not included)."
    )


class AdjustmentSignalEvent(EventPayload):
    """Called when an adjustment signal is evaluated and/or changes state for a position."""

    State: fields.SignalState = Field(description="Adjustment signal state (On/Off).")
    StrategyId: fields.Int = Field(description="Live strategy id this position belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    PositionId: fields.Int = Field(description="Live position id this adjustment signal applies to.")
    PositionName: fields.Text = Field(description="Position name at the time of the event.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id this position belongs to (may be null in some contexts)."
    )
    AdjustmentTimeOk: fields.Flag = Field(description="Whether the adjustment timing window is satisfied.")
    Condition: fields.Given = Field(
        description="Condition evaluation that triggered/represents this adjustment signal."
    )


class OrderUpdateEvent(EventPayload):
    """Called when a live order changes state (submitted, filled, rejected, etc.)."""

    OrderId: fields.Int = Field(description="Live order id.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id the order belongs to (may be null in some contexts)."
    )
    ExecPlanId: fields.Int | None = Field(
        default=None, description="Live execution plan id this order belongs to (if known)."
    )
    LegGroupId: fields.Int | None = Field(
        default=None, description="Leg group id within the execution plan (if known)."
    )
    StrategyId: fields.Int = Field(description="Live strategy id this order is associated with.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    State: fields.OrderState = Field(description="Current order state.")
    FilledQty: fields.Amount | None = Field(default=None, description="Quantity filled so far (if available).")
    RemainingQty: fields.Amount | None = Field(default=None, description="Remaining quantity (if available).")
    FillPrice: fields.Amount | None = Field(default=None, description="Last fill price (if available).")
    AvgFillPrice: fields.Amount | None = Field(
        default=None, description="Average fill price across all fills (if available)."
    )
    Rejection: fields.Open = Field(default=None, description="Rejection details when the order is rejected.")


class PositionUpdateEvent(EventPayload):
    """Called when a live position changes state (created, closed, adjusted, etc.)."""

    PositionId: fields.Int = Field(description="Live position id.")
    StrategyId: fields.Int = Field(description="Live strategy id this position belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    PositionName: fields.Text = Field(description="Position name at the time of the event.")
    BrokerAccountId: fields.Text = Field(description="Broker account id this position belongs to.")
    Status: fields.PositionStatus = Field(description="Position status.")
    RealizedPnL: fields.Amount | None = Field(default=None, description="Realized PnL at the time of the event.")


class LegUpdateEvent(EventPayload):
    """Called when a live leg changes state (created, closed, quantity changed, etc.)."""

    BrokerAccountId: fields.Text = Field(description="Broker account id this leg belongs to.")
    PositionId: fields.Int = Field(description="Live position id this leg belongs to.")
    PositionName: fields.Text = Field(description="Position name at the time of the event.")
    StrategyId: fields.Int = Field(description="Live strategy id this position belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    LegId: fields.Int = Field(description="Live leg id.")
    LegName: fields.Text = Field(description="Leg name at the time of the event.")
    Contract: LiveContract = Field(description="Contract for this leg.")
    Status: fields.LegStatus = Field(description="Leg status.")
    Qty: fields.Amount | None = Field(default=None, description="Current leg quantity.")
    RealizedPnL: fields.Amount | None = Field(
        default=None, description="Realized PnL attributed to this leg at the time of the event."
    )


class AgentStatusEvent(EventPayload):
    """Called when an agent/connector status changes (connected, disconnected, error)."""

    Status: fields.AgentStatus = Field(description="Agent status.")
    Message: fields.Text = Field(description="Human-readable status message.")
    Connector: fields.AgentConnector | None = Field(
        default=None, description="Optional hint which connector raised the event."
    )


class ErrorEvent(EventPayload):
    """Called when an error event is emitted or updated for a strategy/position."""

    State: fields.ErrorState = Field(description="Error state transition.")
    ErrorId: fields.Uuid = Field(description="Stable unique identifier for this error instance.")
    StrategyId: fields.Int | None = Field(
        default=None, description="Live strategy id associated with the error (if applicable)."
    )
    StrategyName: fields.Text | None = Field(
        default=None, description="Strategy name associated with the error (if applicable)."
    )
    PositionId: fields.Int | None = Field(
        default=None, description="Live position id associated with the error (if applicable)."
    )
    PositionName: fields.Text | None = Field(
        default=None, description="Position name associated with the error (if applicable)."
    )
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id associated with the error (if applicable)."
    )
    Message: fields.Text | None = Field(default=None, description="Human-readable error message (if available).")
    ConditionType: fields.ConditionType | None = Field(
        default=None, description="Condition type associated with the error (if applicable)."
    )
    Statement: fields.Text | None = Field(
        default=None, description="Expression/statement associated with the error (if applicable)."
    )


class PositionEntryPreparationCompletedEvent(EventPayload):
    """Called when an asynchronous "prepare entry" job completes successfully."""

    JobId: fields.Text = Field(description="Job id returned by StartPreparePositionEntry.")
    StrategyId: fields.Int = Field(description="Live strategy id the entry preparation belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id associated with the job (if available)."
    )
    Result: PreparePositionEntryResult = Field(description="Successful prepare-entry result payload.")


class PositionEntryPreparationFailedEvent(EventPayload):
    """Called when an asynchronous "prepare entry" job fails."""

    JobId: fields.Text = Field(description="Job id returned by StartPreparePositionEntry.")
    StrategyId: fields.Int = Field(description="Live strategy id the entry preparation belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id associated with the job (if available)."
    )
    Error: fields.Text = Field(description="Error message describing why the job failed.")


class PositionExitPreparationCompletedEvent(EventPayload):
    """Called when an asynchronous "prepare exit" job completes successfully."""

    JobId: fields.Text = Field(description="Job id returned by StartPreparePositionExit.")
    StrategyId: fields.Int = Field(description="Live strategy id the exit preparation belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id associated with the job (if available)."
    )
    Result: PreparePositionExitResult = Field(description="Successful prepare-exit result payload.")


class PositionExitPreparationFailedEvent(EventPayload):
    """Called when an asynchronous "prepare exit" job fails."""

    JobId: fields.Text = Field(description="Job id returned by StartPreparePositionExit.")
    StrategyId: fields.Int = Field(description="Live strategy id the exit preparation belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id associated with the job (if available)."
    )
    Error: fields.Text = Field(description="Error message describing why the job failed.")


class PositionAdjustmentPreparationCompletedEvent(EventPayload):
    """Called when an asynchronous "prepare adjustment" job completes successfully."""

    JobId: fields.Text = Field(description="Job id returned by StartPreparePositionAdjustment.")
    StrategyId: fields.Int = Field(description="Live strategy id the adjustment preparation belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id associated with the job (if available)."
    )
    Result: PreparePositionAdjustmentResult = Field(description="Successful prepare-adjustment result payload.")


class PositionAdjustmentPreparationFailedEvent(EventPayload):
    """Called when an asynchronous "prepare adjustment" job fails."""

    JobId: fields.Text = Field(description="Job id returned by StartPreparePositionAdjustment.")
    StrategyId: fields.Int = Field(description="Live strategy id the adjustment preparation belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id associated with the job (if available)."
    )
    Error: fields.Text = Field(description="Error message describing why the job failed.")


class AutoUpdateVarsAdjustmentStartedEvent(EventPayload):
    """Called when an auto-update-vars adjustment workflow starts."""

    JobId: fields.Text = Field(description="Job id for the adjustment workflow.")
    StrategyId: fields.Int = Field(description="Live strategy id the workflow belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    PositionId: fields.Int = Field(description="Live position id the workflow applies to.")
    PositionName: fields.Text = Field(description="Position name at the time of the event.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id associated with the workflow (if available)."
    )
    Condition: fields.Text = Field(
        description="Condition identifier/expression used for selecting and validating the adjustment."
    )


class AutoUpdateVarsAdjustmentCompletedEvent(EventPayload):
    """Called when an auto-update-vars adjustment workflow completes successfully."""

    JobId: fields.Text = Field(description="Job id for the adjustment workflow.")
    StrategyId: fields.Int = Field(description="Live strategy id the workflow belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    PositionId: fields.Int = Field(description="Live position id the workflow applies to.")
    PositionName: fields.Text = Field(description="Position name at the time of the event.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id associated with the workflow (if available)."
    )
    Condition: fields.Text = Field(
        description="Condition identifier/expression used for selecting and validating the adjustment."
    )
    UpdatedVars: dict[str, fields.Amount] = Field(
        description="Variables updated by the workflow (var name → new value)."
    )


class AutoUpdateVarsAdjustmentFailedEvent(EventPayload):
    """Called when an auto-update-vars adjustment workflow fails."""

    JobId: fields.Text = Field(description="Job id for the adjustment workflow.")
    StrategyId: fields.Int = Field(description="Live strategy id the workflow belongs to.")
    StrategyName: fields.Text = Field(description="Strategy name at the time of the event.")
    PositionId: fields.Int = Field(description="Live position id the workflow applies to.")
    PositionName: fields.Text = Field(description="Position name at the time of the event.")
    BrokerAccountId: fields.Text | None = Field(
        default=None, description="Broker account id associated with the workflow (if available)."
    )
    Condition: fields.Text = Field(
        description="Condition identifier/expression used for selecting and validating the adjustment."
    )
    Error: fields.Text = Field(description="Error message describing why the workflow failed.")
