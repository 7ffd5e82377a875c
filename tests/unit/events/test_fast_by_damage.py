"""Damage of every sort at every depth: the short way gives what the models give, or leaves it to them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final

import pytest

from gateway.events.catalogue import CATALOGUE, find
from gateway.events.decode import Decoder
from gateway.events.event import Event
from tests.unit.events.conftest import WIRE, Sighting, sightings_in

DECODER: Final = Decoder({"SignalState": ["Off", "On"], "OptionType": ["Put", "Call"]})
SIGHTINGS: Final = [one for path in sorted(WIRE.glob("*.jsonl")) for one in sightings_in(path)]
NUMBERS: Final = [
    *("0", "-0", "-0.0", "1", "-7", "1.0", "1e0", "1E0", "1e5", "1E+5", "5e-5", "1E-7", "1e-0", "10e-1", "0e3"),
    *("0.0000001", "-0.00000001", "0.00000000", "-0.00000000", "4.5E-05", "1e0099", "1e399", "1e401", "0e400"),
    *("9223372036854775807", "-9223372036854775809", "18446744073709551616", "1e999999999", "5e-324"),
    *("9" * 400, "9" * 401, "9" * 5000, f"1.{'0' * 398}", f"1.{'0' * 399}", f"1e{'0' * 398}", f"1e{'0' * 399}"),
    *(f"{'1' * 139}.{'0' * 139}e{'0' * 139}", f"-1{'0' * 130}.{'1' * 130}e-{'0' * 140}1"),
]
TEXTS: Final = [
    *('""', '":"', '"-"', r'"\""', r'"\\u0022"', r'"\\\u0022"', r'"\u0022"', r'"\u003a"', r'"\u002D"', r'"\u002b"'),
    *(r'"\u0045-"', '"E-mini"', '"1E-8"', '"{[{["', '"]}"', f'"{"{[" * 40}"', f'"{"]}" * 40}"', r'"\u007b"', r'"\/"'),
    *(r'"\uD83E\uDD8B"', r'"\uD83E"', r'"\u0000"', '"null"', '"-0"', '"0.10"', '"0.00000001"', '" 1"', '"1_0"'),
    *('"NaN"', '"-Infinity"', '"+1"', '"00.1"', '"2026-11-22T13:32:25+05:30"', '"2026-02-30T00:00:00Z"', '"on"'),
]
NAMES: Final = ['"a"', '"A"', r'"\u0061"', '""', r'"\u0022"', '"a:b"', '"E-"', '"eventId"', '"short_put"', '"{"']
OTHERS: Final = ["null", "true", "[]", "{}", '{"a":1,"a":1}', '{"a":-0}', '[{"b":[1E-7,null]}]', '{"A":1,"a":2}']
LITERALS: Final = [*NUMBERS, *TEXTS, *OTHERS]


class Members(list[list[Any]]):
    """An object as its members stand there: names with their quotes, and any of them twice."""


class Literal(str):
    """JSON as it is."""

    __slots__ = ()


def parsed(text: bytes) -> Members:
    def members(pairs: list[tuple[str, Any]]) -> Members:
        return Members([json.dumps(name, ensure_ascii=False), value] for name, value in pairs)

    found: Members = json.loads(text, object_pairs_hook=members, parse_float=Literal, parse_int=Literal)
    return found


def written(value: Any, space: Callable[[], str] = str) -> str:  # noqa: ANN401 - JSON
    match value:
        case Members():
            inner = (f"{space()}{name}:{space()}{written(member, space)}" for name, member in value)
            return f"{{{','.join(inner)}{space()}}}"
        case list():
            return f"[{','.join(space() + written(one, space) for one in value)}]"
        case Literal():
            return value
        case _:
            return json.dumps(value, ensure_ascii=False)


def escaped(name: str, dice: Random) -> str:
    """Write each character of a text as an escape."""
    digits = dice.choice(["04x", "04X"])
    return '"' + "".join(f"\\u{ord(char):{digits}}" for char in json.loads(name)) + '"'


def other_case(name: str) -> str:
    return name[0] + name[1:2].swapcase() + name[2:]


def literal(dice: Random) -> Literal:
    return Literal(dice.choice(LITERALS))


def replace(members: Members, at: int, name: str, value: object) -> None:
    members[at] = [name, value]


def without_nulls(members: Members) -> None:
    members[:] = [member for member in members if member[1] is not None]


def two_other_numbers(members: Members, dice: Random) -> None:
    """Put numbers in two places: what one has more, the other may have less."""
    for _ in range(2):
        dice.choice(members)[1] = Literal(dice.choice(NUMBERS[:24]))


def inside(value: object, dice: Random) -> object:
    return dice.choice([[value], Members([['"a"', value]]), [value, None]])


def deep(dice: Random) -> Literal:
    opening, closing = dice.choice([("[", "]"), ('{"a":', "}"), ('[{"]":', "}]")])
    levels = dice.choice([28, 31, 58, 59, 60, 61, 62, 63, 64, 65])
    return Literal(opening * levels + "[]" + closing * levels)


def as_text(value: object) -> Literal:
    return Literal(f'"{value}"' if isinstance(value, Literal) else json.dumps(written(value)))


def all_escaped(value: object, dice: Random) -> object:
    return Literal(escaped(json.dumps(value), dice)) if type(value) is str else value


Damage = Callable[[Members, int, int, Random], object]
DAMAGES: Final[dict[str, Damage]] = {
    "twice": lambda all_, at, place, _: all_.insert(place, list(all_[at])),
    "twice, with another value": lambda all_, at, place, dice: all_.insert(place, [all_[at][0], literal(dice)]),
    "twice, escaped": lambda all_, at, place, dice: all_.insert(place, [escaped(all_[at][0], dice), all_[at][1]]),
    "twice, in another case": lambda all_, at, place, _: all_.insert(place, [other_case(all_[at][0]), all_[at][1]]),
    "gone": lambda all_, at, *_: all_.pop(at),
    "without nulls": lambda all_, *_: without_nulls(all_),
    "another value": lambda all_, at, _, dice: replace(all_, at, all_[at][0], literal(dice)),
    "two other numbers": lambda all_, _, __, dice: two_other_numbers(all_, dice),
    "as a text": lambda all_, at, *_: replace(all_, at, all_[at][0], as_text(all_[at][1])),
    "escaped": lambda all_, at, _, dice: replace(all_, at, escaped(all_[at][0], dice), all_escaped(all_[at][1], dice)),
    "in another case": lambda all_, at, *_: replace(all_, at, other_case(all_[at][0]), all_[at][1]),
    "inside": lambda all_, at, _, dice: replace(all_, at, all_[at][0], inside(all_[at][1], dice)),
    "deep": lambda all_, at, _, dice: replace(all_, at, all_[at][0], deep(dice)),
    "another member": lambda all_, _, place, dice: all_.insert(place, [dice.choice(NAMES), literal(dice)]),
    "in another order": lambda all_, _, __, dice: dice.shuffle(all_),
}


def damage(members: Members, dice: Random) -> str:
    """Damage an object, and say how."""
    sort = dice.choice(list(DAMAGES))
    DAMAGES[sort](members, dice.randrange(len(members)), dice.randrange(len(members) + 1), dice)
    return sort


def objects(value: Any) -> list[Members]:  # noqa: ANN401 - JSON
    """Return all objects in a value that have members, the outermost first."""
    inner = [member for _, member in value] if isinstance(value, Members) else value if isinstance(value, list) else []
    own = [value] if isinstance(value, Members) and value else []
    return own + [found for one in inner for found in objects(one)]


@pytest.mark.parametrize("seed", range(12))
def test_the_short_way_gives_what_the_models_give_whatever_the_damage(seed: int) -> None:
    dice, taken, damages = Random(seed), Counter[bool](), Counter[str]()
    for sighting in SIGHTINGS * 20:
        tree = parsed(sighting.push)
        for _ in range(dice.choice([1, 1, 2, 3])):
            within = objects(tree)
            if within:
                damages[damage(dice.choice([within[0], dice.choice(within)]), dice)] += 1
        spaces = dice.choice([" ", "", "", "", "", ""])
        text = written(tree, lambda: dice.choice([spaces, "", ""])).encode()  # noqa: B023 - it is called at once
        kind = find(sighting.callback)
        assert kind is not None
        event = DECODER.match("acme", kind, text)
        taken[event is not None] += 1
        if event is not None:
            assert event == DECODER.push_at_length("acme", sighting.callback, text)
        beside = Literal(dice.choice(LITERALS)) if dice.random() < 0.5 else "x"
        entry = Members([['"eventType"', sighting.callback], ['"payload"', Literal(text.decode())]])
        entry.insert(dice.randrange(3), [dice.choice(['"eventId"', '"EventSeqId"', '"new"']), beside])
        envelope = written(entry).encode()
        found = DECODER.usual_envelope("acme", envelope)
        if found is not None:
            assert found == DECODER.envelope_at_length("acme", envelope)
    assert min(taken.values()) > 100, taken
    assert len(damages) == len(DAMAGES)


def test_a_member_that_stands_twice_at_any_depth_never_goes_the_short_way() -> None:
    for sighting in SIGHTINGS:
        kind, count = find(sighting.callback), len(objects(parsed(sighting.push)))
        assert kind is not None
        for number in range(count):
            for at in range(len(objects(parsed(sighting.push))[number])):
                for value in (None, "-", Literal("0"), Literal("-0"), Literal("1E-8")):
                    tree = parsed(sighting.push)
                    members = objects(tree)[number]
                    members.insert(0, [members[at][0], value])
                    assert DECODER.match("acme", kind, written(tree).encode()) is None


def test_a_value_of_each_type_in_each_place_is_taken_as_the_models_take_it() -> None:
    taken = Counter[bool]()
    for sighting in SIGHTINGS:
        kind = find(sighting.callback)
        assert kind is not None
        for number, found in enumerate(objects(parsed(sighting.push))):
            for at in range(len(found)):
                for value in (None, True, "x", Literal("1.5"), [None], Members()):
                    tree = parsed(sighting.push)
                    objects(tree)[number][at][1] = value
                    text = written(tree).encode()
                    event = DECODER.match("acme", kind, text)
                    taken[event is not None] += 1
                    assert event in (None, DECODER.push_at_length("acme", sighting.callback, text))
    assert min(taken.values()) > 1000, taken


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("sighting", [pytest.param(one, id=f"{one.recording}-{one.callback}") for one in SIGHTINGS])
def test_what_a_hub_writes_goes_the_short_way_with_nulls_or_without(sighting: Sighting, left_out: bool) -> None:
    tree, kind = parsed(sighting.push), find(sighting.callback)
    assert kind is not None
    if left_out:
        for members in objects(tree):
            members[:] = [member for member in members if member[1] is not None]
    text = written(tree).encode()
    event = DECODER.match("acme", kind, text)
    assert isinstance(event, Event)
    assert (
        event == DECODER.match("acme", kind, sighting.push) == DECODER.push_at_length("acme", sighting.callback, text)
    )


ENTRY: Final = next(one for one in SIGHTINGS if one.callback == "OnPositionEntryPreparationCompleted")
PREPARED: Final = CATALOGUE["position-entry-preparation-completed"]


def prepared(name: str, literal: str) -> bytes:
    """Write a prepared entry with this literal at the member of its result."""
    tree = parsed(ENTRY.push)
    for member in tree[0][1]:
        if json.loads(member[0]) == name:
            member[1] = Literal(literal)
    return written(tree).encode()


BRACKETS: Final = [
    *[("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")],
    *[('["]",', ',"["]'), (r'["\"]",', r',"[\""]'), (r'["\\",', r',"\\"]'), (r'["\\",', "]")],  # texts that hide others
]


@pytest.mark.parametrize("levels", range(59, 67))
@pytest.mark.parametrize("inner", ["1", '"x"', '"]]]]"', '"[[[["', r'"\\"', r'"\"]\""', '{"}":"{"}', "[[],[]]"])
@pytest.mark.parametrize("name", ["positionGreeks", "legGreeks", "abortConditions"])
def test_the_depth_is_decided_as_the_models_decide_it(name: str, inner: str, levels: int) -> None:
    for opening, closing in BRACKETS:
        nested = opening * levels + inner + closing * levels
        for literal_ in (nested, rf'["\\",{nested},"\\"]'):
            raw = prepared(name, literal_)
            event = DECODER.match("acme", PREPARED, raw)
            assert event in (None, DECODER.push_at_length("acme", ENTRY.callback, raw))


def test_a_result_of_many_legs_goes_the_short_way() -> None:
    greeks = json.dumps({f"leg {number}": {"delta": 0.5, "gamma": 0} for number in range(70)}, separators=(",", ":"))
    raw = prepared("legGreeks", greeks)
    event = DECODER.match("acme", PREPARED, raw)
    assert event is not None
    assert event == DECODER.push_at_length("acme", ENTRY.callback, raw)


@pytest.mark.parametrize("number", ["0.00000000", "-0.00000001", "1e5", "1.50e1", "4.5E-05"])
@pytest.mark.parametrize("name", ["qtyMultiplier", "vars", "positionGreeks"])
def test_small_numbers_go_the_short_way_unless_an_amount_has_an_exponent(name: str, number: str) -> None:
    raw = prepared(name, f'{{"x":{number},"E-y":-1}}' if name != "qtyMultiplier" else number)
    event = DECODER.match("acme", PREPARED, raw)
    if name == "positionGreeks" or re.search("[eE]-?[0-9]", number) is None:
        assert event is not None
    assert event in (None, DECODER.push_at_length("acme", ENTRY.callback, raw))


@pytest.mark.parametrize("filler", [f'"{"," * 200_001}"', f"[{','.join('1' * 200_002)}]"])
def test_what_has_too_many_parts_is_left_to_the_models(filler: str) -> None:
    raw = prepared("positionGreeks", filler)
    assert DECODER.match("acme", PREPARED, raw) is None
    envelope = b'{"eventType":"PositionEntryPreparationCompleted","payload":%b,"new":%b}' % (
        ENTRY.push,
        filler.encode(),
    )
    assert DECODER.usual_envelope("acme", envelope) is None
