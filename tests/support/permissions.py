"""The least permissions, as docs/operate/nats.md gives them: the very text of its configuration."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

from nats.js import JetStreamContext

PAGE = Path(__file__).parents[2] / "docs" / "operate" / "nats.md"
API = "gateway.API"
"""What services call JetStream's API, each in an account of its own."""
NOTHING = '"nothing.at.all"'
ADMIN = "{ user: admin, password: admin }"
PASSWORDS = {
    f"{user.upper()}_PASSWORD": f"s3cret.{user}"
    for user in ("gateway", "reader", "auditor", "orders", "positions", "example")
}
"""What the text expects in the server's environment."""

KINDS = {
    "orders": "mesolive.events.order-update.v1.*",
    "positions": "mesolive.events.position-update.v1.*",
    "example": "mesolive.events.order-update.v1.*",
}
"""The consumers that an administrator makes, one for the user of the same name, each with its filter."""

_GATEWAY = "  GATEWAY: { # it has the streams\n    jetstream: enabled\n    users: [\n"
_CREATES = "# not with topics.create: false"


def documented() -> str:
    """Return the configuration of the page, and an administrator `admin` besides in the gateway's account."""
    (text,) = re.findall(r"```conf\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert text.count(_GATEWAY) == 1
    return text.replace(_GATEWAY, f"{_GATEWAY}      {ADMIN}\n")


def in_one_account(text: str) -> str:
    """Return the text with the same users and permissions, and without accounts that keep them apart."""
    users = re.findall(r"^      \{ # .*?^      \}\n", text, re.MULTILINE | re.DOTALL)
    assert len(users) == len(PASSWORDS)
    return f"authorization {{ users: [\n{ADMIN}\n{''.join(users)}] }}\n".replace(API, "$JS.API")


def without_create(text: str) -> str:
    """Return the text for `topics.create: false`."""
    kept = [line for line in text.splitlines(keepends=True) if _CREATES not in line]
    assert len(kept) == len(text.splitlines()) - 4
    return "".join(kept)


def permissions(text: str, user: str) -> list[str]:
    """Return the permissions of a user."""
    section = text[slice(*_span(text, user))]
    return re.findall(r'^ +"([^"]+)"', section, re.MULTILINE)


def lacking(text: str, user: str, permission: str) -> str:
    """Return the text in which `user` has one permission less."""
    begin, end = _span(text, user)
    section = text[begin:end]
    assert section.count(f'"{permission}"') == 1
    return text[:begin] + section.replace(f'"{permission}"', NOTHING) + text[end:]


def not_imported(text: str, subject: str) -> str:
    """Return the text in which no account imports `subject` of JetStream's API."""
    pattern = rf'^      \{{\n[^\n]*"\$JS\.API\.{re.escape(subject)}" \}}\n[^\n]*\n      \}}\n'
    shorter, count = re.subn(pattern, "", text, flags=re.MULTILINE)
    assert count == 1
    return shorter


def widened(text: str, user: str, permission: str, wider: str) -> str:
    """Return the text in which one permission of `user` reaches further."""
    begin, end = _span(text, user)
    section = text[begin:end]
    assert section.count(f'{permission}"') == 1
    return text[:begin] + section.replace(f'{permission}"', f'{wider}"') + text[end:]


def covers(permission: str, subject: str) -> bool:
    """Return whether a subject is one that the permission speaks of."""
    pattern = re.escape(permission.lower()).replace(r"\*", r"[^.]+").replace(">", ".+")
    return re.fullmatch(pattern, subject.lower()) is not None


def named(text: str) -> list[str]:
    """Return the subjects whose refusal the words speak of."""
    return re.findall(r'(?:publish|subscribe|subscription) to "([^"]+)"', text)


def documented_consumers() -> dict[str, dict[str, str]]:
    """Return the consumers that the page tells an administrator to make, with their options."""
    page = PAGE.read_text("utf-8").replace("\\\n", " ")
    found = {}
    for line in re.findall(r"^nats consumer add mesolive-gateway (.+)$", page, re.MULTILINE):
        name, *options = shlex.split(line)
        found[name] = {
            option.removeprefix("--"): "" if value.startswith("--") else value
            for option, value in zip(options, [*options[1:], ""], strict=True)
            if option.startswith("--")
        }
    return found


async def make_consumers(admin: JetStreamContext) -> None:
    """Make the page's consumers, and no other, as if they were never used."""
    for consumer in await admin.consumers_info("mesolive-gateway"):
        await admin.delete_consumer("mesolive-gateway", consumer.name)
    for name, options in documented_consumers().items():
        await admin.add_consumer(
            "mesolive-gateway",
            durable_name=name,
            filter_subject=options["filter"],
            ack_policy=options["ack"],
            deliver_policy=options["deliver"],
        )


def nats_consumer(api: str = "$JS.API") -> ModuleType:
    """Return examples/nats_consumer.py, as `NATS_API_PREFIX` makes it."""
    file = PAGE.parents[2] / "examples" / "nats_consumer.py"
    spec = importlib.util.spec_from_file_location("nats_consumer", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.API = api
    return module


def _span(text: str, user: str) -> tuple[int, int]:
    """Return where the permissions of a user begin and end."""
    begin = text.index(f"user: {user},")
    ends = re.compile(r"user: |exports: |imports: ").search(text, begin + 1)
    return begin, len(text) if ends is None else ends.start()
