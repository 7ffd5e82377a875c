"""Files with secrets that others may use are told of once, and again only when that changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.accounts import AccountsDirectory
from gateway.bootstrap import exposed_files as exposed
from gateway.settings.model import Settings
from gateway.settings.sections import AccountsSettings, ControlSettings, HubSettings


async def test_each_is_warned_of_once_and_a_new_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposed, "_LOOK", 0.01)
    keys, tokens = tmp_path / "keys", tmp_path / "tokens"
    keys.mkdir()
    for name in "abcde":
        (keys / name).write_text("key")
        (keys / name).chmod(0o604)
    tokens.touch(0o600)
    settings = Settings(
        hub=HubSettings(url="http://h"),
        accounts=AccountsSettings(directory=keys),
        control=ControlSettings(tokens_file=tokens),
    )
    with capture_logs() as logs:
        warning = asyncio.create_task(exposed.warn_of_exposed(settings, AccountsDirectory(keys)))
        while not logs:
            await asyncio.sleep(0.01)
        tokens.chmod(0o666)
        while len(logs) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        warning.cancel()
    assert [entry["log_level"] for entry in logs] == ["warning", "warning"]
    assert logs[0]["setting"] == "accounts.directory/a, b, c and 2 more"
    assert logs[0]["problem"] == "can be read by others (mode 0604)"
    assert logs[1]["setting"] == "control.tokens_file"
