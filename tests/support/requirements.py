"""All that the tests need, said once at the beginning of a run; as a program it also fetches what can be fetched."""

from __future__ import annotations

import os
import sys
import time
from typing import Final

import pytest

from tests.support import charts, foreign_clients, kafka_server, prometheus_server
from tests.support.requirement import OPENSSL

ALL: Final = (
    kafka_server.KAFKA,
    prometheus_server.PROMETHEUS,
    charts.HELM,
    foreign_clients.NODE,
    OPENSSL,
)
VARIABLES: Final = {
    "MESOLIVE_TEST_KAFKA": "host:port of a broker of a cluster, on which tests may make topics",
    "MESOLIVE_TEST_PROMETHEUS": "a folder with prometheus and promtool",
    "MESOLIVE_TEST_HELM": "the path of helm",
    "MESOLIVE_TEST_FUZZ_EXAMPLES": "requests of each operation that the fuzzer makes in the long run",
    "MESOLIVE_TEST_IMAGE": "an image of the gateway that the cluster of KUBECONFIG can pull",
    "MESOLIVE_TEST_VALUES": "a file of Helm values with a hub and a broker that this cluster reaches",
}
"""What the tests read from the environment. The prefix is not the product's: that refuses what is no setting of it."""


def report() -> tuple[list[str], list[str]]:
    """Return a line for what is there, if anything is, and a line for each thing that is not."""
    found = {one: one.look() for one in ALL}
    there = ", ".join(f"{one.name} ({where})" for one, where in found.items() if where is not None)
    lacking = [
        f"lacks {one.name}: its tests are skipped; {one.remedy}" for one, where in found.items() if where is None
    ]
    return ([f"tests on: {there}"] if there else []), lacking


def main() -> int:
    """Say what is there and what is not, and fetch the rest; return 1 where something lacks in CI."""
    there, lacking = report()
    _print(*there, *lacking)
    problems = len(lacking)
    for one in ALL:
        if one.look() is None:
            continue
        began = time.monotonic()
        try:
            one.fetch()
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            problems += 1
            _print(str(error))
        if (seconds := time.monotonic() - began) > 1:
            _print(f"fetched {one.name} in {seconds:.0f} s, once for all runs")
    return 1 if problems and os.environ.get("CI") else 0


def _print(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
