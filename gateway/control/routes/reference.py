"""What consumers look up: the topics of this deployment, and the JSON Schemas of their values."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Response

from gateway.control import models
from gateway.control.openapi import responses
from gateway.control.problems import ProblemType, unknown
from gateway.control.routes.dependencies import DeploymentDep
from gateway.events.schemas import schema_files
from gateway.publication import REPLAY

router: Final = APIRouter(prefix="/v1", tags=["reference"])

_SUFFIX: Final = ".v1.schema.json"
_SCHEMAS: Final = {
    path.rpartition("/")[2].removesuffix(_SUFFIX): text.encode() for path, text in schema_files().items()
}
"""By kind, as `schemas/` has them."""
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
        models.Topic(kind=kind, topic=topic, schema_url=f"/v1/schemas/{kind}" if kind in _SCHEMAS else None)
        for kind, topic in deployment.topics.items()
        if kind in _SCHEMAS or kind == REPLAY
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
                    "example": json.loads(_SCHEMAS["notifications"]),
                }
            },
        },
    },
)
async def show_schema(
    kind: Annotated[str, Path(description="Such as order-update, or dead-letter.", examples=["order-update"])],
) -> Response:
    """As in the folder schemas/ of the gateway's source."""
    if kind not in _SCHEMAS:
        raise unknown(ProblemType.UNKNOWN_KIND, "kind", kind, _SCHEMAS)
    return _Schema(_SCHEMAS[kind])
