"""The running API against its own document: schemathesis asks whatever that allows, and whatever it does not.

The short run asks a few examples of each operation, `make test-long` enough to find rare faults (of 30 unseeded ones a
planted fault was missed once); `make fuzz EXAMPLES=1000` as many as one likes.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.support.control_client import control_of, new_token
from tests.support.gateway_process import house, process, until

EXAMPLES = int(os.environ.get("MESOLIVE_TEST_FUZZ_EXAMPLES", "100"))
"""Of each operation, in the long run."""
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.long
@pytest.mark.timeout(0)
async def test_the_api_is_what_its_document_says(tmp_path: Path) -> None:
    async with house(tmp_path, accounts=["main", "other"], prefill=20) as here:
        token, line = await new_token(tmp_path, "fuzz", "operator")
        (tmp_path / "tokens").write_text(line)
        here.config.write_text(here.config.read_text() + f"control: {{tokens_file: '{tmp_path / 'tokens'}'}}\n")
        control = await control_of(await here.gateway(), here.http, token)
        await control.ready()
        await control.live(here.accounts)
        command = (
            SCHEMATHESIS,
            f"--config-file={CONFIG}",
            "run",
            f"{control.url}/openapi.json",
            f"--header=Authorization: Bearer {token}",
            f"--max-examples={EXAMPLES}",
            "--seed=9",
            "--generation-database=none",
            "--no-color",
        )
        async with process(tmp_path, *command, name="schemathesis") as asking:
            await until(lambda: asking.popen.poll() is not None, "schemathesis ends", 60 + 30 * EXAMPLES)
        assert asking.popen.returncode == 0, asking.stdout + asking.stderr
        tested = re.search(r"Test cases:\n +(\d+) generated, (\d+) ", asking.stdout)
        assert tested is not None, asking.stdout
        assert int(tested[1]) > 10 * EXAMPLES
        assert await control.probe("/healthz") == 200
        assert await control.probe("/readyz") == 200
        lines = [json.loads(line) for line in control.running.stderr.splitlines()]
        assert [line for line in lines if line["event"] == "request failed"] == []
        for name in here.accounts:
            answer = await control.ask(f"PUT /v1/accounts/{name}/target-state", json={"state": "running"})
            assert answer.status in {200, 202}
        await control.live(here.accounts)
