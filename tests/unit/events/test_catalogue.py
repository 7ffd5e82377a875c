"""The models are the reference's: its table, as facts, stands in tests/fixtures/event-hub-fields.tsv."""

from __future__ import annotations

import csv
import re
from itertools import groupby
from pathlib import Path

from pydantic import ValidationError

from gateway.events.catalogue import CATALOGUE, KINDS, find
from gateway.events.models import payloads

FIELDS = Path(__file__).parents[2] / "fixtures" / "event-hub-fields.tsv"


def reference() -> list[dict[str, str]]:
    with FIELDS.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_catalogue_has_the_17_callbacks_of_the_reference_in_order() -> None:
    callbacks = [
        (callback, model) for (callback, model), _ in groupby(reference(), lambda f: (f["callback"], f["model"]))
    ]
    assert [(entry.callback, entry.model.__name__) for entry in CATALOGUE.values()] == callbacks
    assert len(KINDS) == 17


def test_a_kind_is_its_callback_in_kebab_case_without_on() -> None:
    for kind, entry in CATALOGUE.items():
        assert kind == entry.kind == re.sub(r"(?<!^)([A-Z])", r"-\1", entry.callback.removeprefix("On")).lower()


def test_every_model_has_the_references_fields_in_order_with_descriptions() -> None:
    for model, rows in groupby(reference(), lambda f: f["model"]):
        fields = getattr(payloads, model).model_fields
        expected = [(row["field"], row["description"]) for row in rows]
        assert [(name, field.description) for name, field in fields.items()] == expected


def test_a_field_is_required_where_the_reference_says_so_and_null_is_not() -> None:
    for row in reference():
        field = getattr(payloads, row["model"]).model_fields[row["field"]]
        assert field.is_required() == (row["required"] == "Yes" and row["nullable"] == "No"), row


def test_a_field_may_be_null_where_the_reference_allows_null_or_absence() -> None:
    for row in reference():
        model = getattr(payloads, row["model"])
        try:
            model.__pydantic_validator__.validate_assignment(model.model_construct(), row["field"], None)
        except ValidationError as error:
            refuses = any(
                fault["loc"] == (row["field"],) and fault["type"] != "frozen_field" for fault in error.errors()
            )
        else:
            refuses = False
        assert refuses == (row["required"] == "Yes" and row["nullable"] == "No"), row


def test_a_name_is_found_under_any_naming_policy_and_nothing_else_is() -> None:
    assert find("order_update") is find("On-Order-Update") is find("ORDER_UPDATE_EVENT") is CATALOGUE["order-update"]
    assert find("OnOrderUpdate") is find("orderupdateevent") is CATALOGUE["order-update"]
    assert find("AgentStatus") is find("OnAgentStatusChange") is CATALOGUE["agent-status-change"]
    assert find("Order") is find("") is find("On") is find("Event") is find("order.update") is None
