"""Prints docs/reference/http-api.md from schemas/openapi.json: `make schemas` writes it, `make check` compares."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_OPENAPI: Final = Path(__file__).parents[1] / "schemas" / "openapi.json"
_OF_ALL: Final = frozenset({"400", "401", "403", "408", "413", "500"})
"""Statuses that every operation may answer."""
_MANY: Final = 1_000_000
"""Bounds above this are those of the type, and are of no interest."""
_INTRODUCTION: Final = """# HTTP API

What each replica answers on `control.port`. How to use it, with tokens, ETags and idempotency keys:
[control plane](../operate/control.md). The same for programs is [openapi.json](../../schemas/openapi.json). Any
operation may also answer {of_all}; [errors](errors.md#problems-of-the-http-api) has the problems of each status.

<!-- Made by tools/make_api_page.py from schemas/openapi.json: `make schemas`. -->
"""


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def _type(schema: dict[str, Any]) -> str:
    """Return a type as people write it: `list of integer`, `text or null`, the name of an object."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    bounds = f"{schema['minimum']} to {schema['maximum']}" if schema.get("maximum", _MANY) < _MANY else ""
    names = {"string": schema.get("format", "text"), "integer": f"integer {bounds}".strip()}.get(kind, kind)
    return names if isinstance(names, str) else " or ".join(names)


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"\n### {operation['summary']}\n"
    yield f"`{method.upper()} {path}`\n"
    if operation.get("description"):
        yield f"{operation['description']}\n"
    parameters = operation.get("parameters", [])
    if parameters:
        yield "| parameter | in | type | |\n|---|---|---|---|"
        for one in parameters:
            default = one["schema"].get("default")
            text = _cell(one.get("description", "")) + (f" Default: `{default}`." if default not in {None, ""} else "")
            yield f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {text} |"
        yield ""
    if "requestBody" in operation:
        yield f"Body: {_type(operation['requestBody']['content']['application/json']['schema'])}.\n"
    yield "| status | |\n|---|---|"
    for status, response in operation["responses"].items():
        if status in _OF_ALL:
            continue
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        named = re.findall(r"problem:([a-z-]+)", response.get("description", ""))
        answer = f" {_type(schema)}" if "$ref" in schema else ""
        text = ", ".join(f"`{one}`" for one in named) or _cell(response.get("description", "")) + answer
        yield f"| {status} | {text} |"


def _object(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"\n### {name}\n"
    if schema.get("description"):
        yield f"{schema['description']}\n"
    required = schema.get("required", [])
    yield "| member | type | |\n|---|---|---|"
    for member, one in schema.get("properties", {}).items():
        text = _cell(one.get("description", "")) + ("" if member in required else " May be left out.")
        yield f"| `{member}` | {_type(one)} | {text.strip()} |"


def main() -> None:
    document = json.loads(_OPENAPI.read_text("utf-8"))
    print(_INTRODUCTION.format(of_all=", ".join(sorted(_OF_ALL))), end="")
    print("\n## Operations")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            print("\n".join(_operation(method, path, operation)))
    print("\n## Objects")
    for name, schema in document["components"]["schemas"].items():
        print("\n".join(_object(name, schema)))


if __name__ == "__main__":
    main()
