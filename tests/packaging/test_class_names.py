"""No two public classes of the package share a name, and the check finds those that do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_class_names import main, violations

ROOT = Path(__file__).parents[2]
CLASS = "class Limits:\n    pass\n"


def test_no_two_public_classes_of_the_package_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["gateway"]) == 0


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(["gateway/broker/ports.py", "gateway/simulator/hub.py"], id="in two rooms"),
        pytest.param(["gateway/broker/kafka/log.py", "gateway/broker/kafka/ends.py"], id="twice in one adapter"),
        pytest.param(["gateway/broker/kafka/log.py", "gateway/state.py"], id="in an adapter and elsewhere"),
        pytest.param(
            ["gateway/broker/kafka/log.py", "gateway/broker/jetstream/log.py", "gateway/state.py"], id="in three rooms"
        ),
    ],
)
def test_a_name_of_two_classes_is_found_with_its_places(files: list[str]) -> None:
    (found,) = violations(dict.fromkeys(files, CLASS))
    assert found.startswith("Limits is a class in each of ")
    assert all(file in found for file in files)


def test_a_class_within_a_class_counts() -> None:
    files = {"gateway/one.py": CLASS, "gateway/two.py": f"class Two:\n    {CLASS.replace(chr(10), chr(10) + '    ')}"}
    assert [found.partition(" ")[0] for found in violations(files)] == ["Limits"]


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(["gateway/broker/kafka/log.py", "gateway/broker/jetstream/log.py"], id="parallel adapters"),
        pytest.param(["gateway/control/models.py", "gateway/state.py"], id="a schema of the API"),
    ],
)
def test_what_is_parallel_or_public_may_share_a_name(files: list[str]) -> None:
    assert list(violations(dict.fromkeys(files, CLASS))) == []


def test_private_classes_may_share_a_name() -> None:
    assert (
        list(violations(dict.fromkeys(["gateway/one.py", "gateway/two.py"], CLASS.replace("Limits", "_Limits")))) == []
    )
