"""The reference for consumers: the topics of this deployment, and the JSON Schemas of their values."""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any, Final

from fastapi import Path, Response

from gateway.control import models
from gateway.control.openapi import responses
from gateway.control.problems import ProblemType, unknown
from gateway.control.routes.dependencies import DeploymentDep, resource_router
from gateway.events.schemas import SCHEMA_NAMES, schema_text
from gateway.publication import REPLAY

router: Final = resource_router("/v1", "reference")

_TOPICS: Final[dict[str, Any]] = {
    "items": [
        {
            "kind": "order-update",
            "topic": "mesolive.events.order-update.v1.*",
            "schema_url": "/v1/schemas/order-update",
        }
    ],
    "next": None,
}


class _Schema(Response):
    media_type = "application/schema+json"


@router.get(
    "/topics",
    operation_id="listTopics",
    summary="List the topics of the log",
    responses=responses(_TOPICS, problems=()),
)
async def list_topics(deployment: DeploymentDep) -> models.Topics:
    """On Kafka names, on NATS subject filters; each with the place of its schema."""
    items = [
        models.Topic(kind=kind, topic=topic, schema_url=f"/v1/schemas/{kind}" if kind in SCHEMA_NAMES else None)
        for kind, topic in deployment.topics.items()
        if kind in SCHEMA_NAMES or kind == REPLAY
    ]
    return models.Topics(items=items, next=None)


@router.get(
    "/schemas/{kind}",
    operation_id="getSchema",
    summary="Give the JSON Schema of a kind's values",
    response_class=_Schema,
    responses={
        **responses({}, problems=(ProblemType.UNKNOWN_KIND, ProblemType.INVALID)),
        200: {
            "description": "JSON Schema 2020-12.",
            "content": {
                _Schema.media_type: {
                    "schema": {"type": "object"},
                    "example": json.loads(schema_text("notifications")),
                }
            },
        },
    },
)
async def show_schema(
    kind: Annotated[str, Path(description="Such as order-update, or dead-letter.", examples=["order-update"])],
) -> Response:
    """As in the folder schemas/ of the gateway's source."""
    if kind not in SCHEMA_NAMES:
        raise unknown(ProblemType.UNKNOWN_KIND, "kind", kind, SCHEMA_NAMES)
    return _Schema(_written(kind))


@cache
def _written(kind: str) -> bytes:
    """Write it with the first request for it: all of them take 30 ms, and few request it."""
    return schema_text(kind).encode()
