"""Prints docs/reference/settings.md from the settings themselves: `make schemas` writes it, `make check` compares."""

from __future__ import annotations

import json

from pydantic_core import PydanticUndefined, to_jsonable_python

from gateway.settings.model import ENVIRONMENT_PREFIX, fields


def main() -> None:
    print("# Settings\n")
    print("From a YAML file (`--config`), then from the environment, which wins: `GATEWAY_HUB__URL` sets `hub.url`.")
    print("A setting that does not exist is an error that names the nearest one. Times are in seconds.\n")
    print("<!-- Made by tools/make_settings_page.py from gateway/settings/sections.py: `make schemas`. -->\n")
    print("| setting | environment | default | meaning |")
    print("|---|---|---|---|")
    for name, field in fields():
        variable = ENVIRONMENT_PREFIX + name.upper().replace(".", "__")
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "" if default is PydanticUndefined or default == "" else f"`{json.dumps(to_jsonable_python(default))}`"
        meaning = (field.description or "").replace("\n", " ").replace("|", "\\|")
        print(f"| `{name}` | `{variable}` | {shown} | {meaning} |")


if __name__ == "__main__":
    main()
