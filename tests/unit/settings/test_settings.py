"""Settings: where they come from, and what is said of a wrong one; a secret is never repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError
from gateway.settings.load import load_settings
from gateway.settings.model import Settings, fields

GOOD = "hub: {url: 'https://hub.example.com'}\naccounts: {directory: /keys}\n"
Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load settings from YAML and an environment."""

    def load(yaml: str | bytes | None = GOOD, **environment: str) -> Settings:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if yaml is None:
            return load_settings(None, environment)
        file = tmp_path / "gateway.yaml"
        file.write_bytes(yaml if isinstance(yaml, bytes) else yaml.encode())
        return load_settings(file, environment)

    return load


@pytest.fixture
def refuse(load: Load) -> Callable[..., ConfigurationError]:
    """Load settings that must be refused, and return what is said."""

    def refuse(yaml: str | bytes | None = GOOD, **environment: str) -> ConfigurationError:
        with pytest.raises(ConfigurationError) as refused:
            load(yaml, **environment)
        assert "\n" not in str(refused.value)
        assert refused.value.remedy
        return refused.value

    return refuse


Refuse = Callable[..., ConfigurationError]


def test_settings_come_from_the_file_and_the_environment_wins(load: Load) -> None:
    settings = load(GOOD + "shards: 4\n", GATEWAY_SHARDS="8", GATEWAY_BROKER__SERVERS="nats://a:1, nats://b:2")

    assert settings.hub.url == "https://hub.example.com"
    assert settings.accounts.directory == Path("/keys")
    assert settings.shards == 8
    assert settings.broker.servers == ["nats://a:1", "nats://b:2"]


def test_the_environment_alone_is_enough(load: Load) -> None:
    settings = load(None, GATEWAY_HUB__URL="http://h:1/hubs/event/v1", GATEWAY_ACCOUNTS__DIRECTORY="/keys")

    assert settings.hub.url == "http://h:1"  # the hub's path is added by the gateway


@pytest.mark.parametrize(
    "written", ["nats://a:1,nats://b:2", '["nats://a:1","nats://b:2"]', " nats://a:1 , nats://b:2"]
)
def test_a_list_in_the_environment_is_commas_or_json(load: Load, written: str) -> None:
    assert load(GATEWAY_BROKER__SERVERS=written).broker.servers == ["nats://a:1", "nats://b:2"]


@pytest.mark.parametrize(("written", "start"), [("latest", "latest"), ("earliest", "earliest"), ("17", 17), ("0", 0)])
def test_an_account_starts_at_a_word_or_a_sequence(load: Load, written: str, start: str | int) -> None:
    assert load(GATEWAY_ACCOUNTS__START=written).accounts.start == start


def test_a_section_with_all_settings_commented_out_is_as_if_not_there(load: Load) -> None:
    assert load(GOOD + "broker:\n  # prefix: x\nsession:\n").broker.prefix == "mesolive"
    assert load(GOOD + "broker:\n  prefix: x\n  tls:\n").broker.tls.ca_file is None


@pytest.mark.parametrize("url", ["https://hub.example.com\n", " https://hub.example.com/hubs/event/v1/ \r\n"])
def test_spaces_around_a_url_are_none_of_it(load: Load, url: str) -> None:
    settings = load(GATEWAY_HUB__URL=url, GATEWAY_HUB__PROXY="http://proxy.example.com:3128\n")

    assert settings.hub.url == "https://hub.example.com"
    assert settings.hub.proxy is not None
    assert settings.hub.proxy.get_secret_value() == "http://proxy.example.com:3128"


@pytest.mark.parametrize(
    "url",
    [
        *("https://hub.example.com/?", "https://hub.example.com/#", "https://@hub.example.com"),
        *("https://hub.exa\nmple.com", "https://hub.example.com/a b", "https://hub.example.com\t/x"),
    ],
)
def test_a_url_to_which_nothing_can_be_added_is_refused(refuse: Refuse, url: str) -> None:
    assert refuse(GATEWAY_HUB__URL=url).setting == "hub.url"


@pytest.mark.parametrize("name", [name for name, field in fields() if "float" in str(field.annotation)])
@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
def test_no_setting_is_without_an_end(refuse: Refuse, name: str, number: str) -> None:
    *sections, last = name.split(".")
    yaml = f"{last}: {number}"
    for section in reversed(sections):
        yaml = f"{section}: {{{yaml}}}"
    refused = refuse((GOOD if sections != ["hub"] else "accounts: {directory: /keys}\n") + yaml + "\n")
    assert refused.setting == name


@pytest.mark.parametrize("setting", ["retention", "audit_retention"])
def test_a_retention_that_a_broker_cannot_count_is_refused(load: Load, refuse: Refuse, setting: str) -> None:
    hundred_years = 100 * 365 * 24 * 3600
    assert getattr(load(GOOD + f"topics: {{{setting}: {hundred_years}}}\n").topics, setting) == hundred_years
    refused = refuse(GOOD + f"topics: {{{setting}: 9_000_000_000}}\n")
    assert refused.setting == f"topics.{setting}"
    assert "null keeps it for ever" in str(refused)


def test_a_null_in_the_environment_is_the_files(load: Load) -> None:
    settings = load(GATEWAY_TOPICS__RETENTION="null", GATEWAY_SESSION__SKIP_POISON_AFTER="null")
    assert settings.topics.retention is None
    assert settings.session.skip_poison_after is None


def test_a_null_means_what_the_setting_says_it_means(load: Load) -> None:
    assert load(GOOD + "topics: {retention: null}\n").topics.retention is None


@pytest.mark.parametrize("yaml", ["", "# nothing\n", "hub:\naccounts: {directory: /keys}\n"])
def test_a_missing_url_is_asked_for(refuse: Refuse, yaml: str) -> None:
    assert str(refuse(yaml)) == "hub.url: is not set. Set it to where the hub is, such as https://api.example.com."


def test_a_missing_directory_is_asked_for(refuse: Refuse) -> None:
    error = refuse("hub: {url: http://h}\n")

    assert (error.setting, error.problem) == ("accounts.directory", "is not set")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hub.example.com", "'hub.example.com' is no http or https URL"),
        ("ws://hub", "'ws://hub' is no http or https URL"),
        ("https://", "'https://' is no http or https URL"),
        ("https://h/#x", "must not have a query or a fragment"),
        ("https://h/?access_token=s3cret", "must not have a query or a fragment"),
        ("https://me:s3cret@h", "must not hold credentials"),
        ("https://s3cret@h", "must not hold credentials"),
    ],
)
def test_a_wrong_url_is_named_but_never_a_secret_in_it(refuse: Refuse, url: str, message: str) -> None:
    error = refuse(GATEWAY_HUB__URL=url)

    assert error.setting == "hub.url"
    assert message in error.problem
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ("127.0.0.1:3128", "is no http or https URL; write it as http://proxy.example.com:3128"),
        ("proxy:3128", "is no http or https URL"),
        ("socks5://me:s3cret@proxy:1080", "is no http or https URL"),
        ("htps://s3cret", "is no http or https URL"),
        ("http://", "is no http or https URL"),
        ("http://me:s3cret@", "is no http or https URL"),
        ("http://proxy:99999", "is no http or https URL"),
        ("http://[::1", "is no http or https URL"),
        ("http://proxy:3128/s3cret", "must not have a path, a query or a fragment"),
        ("http://proxy:3128?s3cret", "must not have a path, a query or a fragment"),
        ("", "is no http or https URL"),
    ],
)
def test_a_proxy_is_checked_as_the_hub_is_and_never_shown(refuse: Refuse, proxy: str, message: str) -> None:
    error = refuse(GATEWAY_HUB__PROXY=proxy)

    assert error.setting == "hub.proxy"
    assert error.problem.startswith(message)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    "proxy", ["http://proxy", "http://me:s3cret@proxy:3128/", "https://proxy.example.com:8443", "http://[::1]:3128"]
)
def test_a_proxy_may_have_a_password(load: Load, proxy: str) -> None:
    found = load(GATEWAY_HUB__PROXY=proxy).hub.proxy
    assert found is not None
    assert found.get_secret_value() == proxy


def test_redirect_hosts_are_names_or_all_names_below_one(load: Load, refuse: Refuse) -> None:
    assert load(GOOD).hub.redirect_hosts == ["*.service.signalr.net"]
    written = load(GATEWAY_HUB__REDIRECT_HOSTS="Hub-2.example.com,*.signalr.example,::1,10.0.0.1").hub.redirect_hosts
    assert written == ["hub-2.example.com", "*.signalr.example", "::1", "10.0.0.1"]
    assert load(GATEWAY_HUB__REDIRECT_HOSTS="[]").hub.redirect_hosts == []
    for wrong in ("*", "https://hub", "hub:443", "a.*.b", "*example.com", "", "a..b"):
        error = refuse(GATEWAY_HUB__REDIRECT_HOSTS=f'["{wrong}"]')
        assert error.setting == "hub.redirect_hosts"
        assert f"{wrong!r} is no host name; write hub.example.com" in error.problem


@pytest.mark.parametrize(
    ("variable", "value", "setting", "message"),
    [
        ("GATEWAY_SHARDS", "0", "shards", "'0' should be greater than or equal to 1"),
        ("GATEWAY_SHARDS", "many", "shards", "'many' should be a valid integer"),
        ("GATEWAY_BROKER__PREFIX", "a.b", "broker.prefix", "'a.b': string should match pattern"),
        ("GATEWAY_BROKER__PREFIX", "*", "broker.prefix", "'*': string should match pattern"),
        ("GATEWAY_BROKER__KIND", "rabbit", "broker.kind", "'rabbit' should be"),
        ("GATEWAY_BROKER__SERVERS", "[]", "broker.servers", "should have at least 1 item"),
        ("GATEWAY_BROKER__SERVERS", '["a', "broker.servers", "unterminated string"),
        ("GATEWAY_BROKER__REPLICAS", "6", "broker.replicas", "'6' should be less than or equal to 5"),
        ("GATEWAY_TOPICS__RETENTION", "0", "topics.retention", "'0' should be greater than 0"),
        ("GATEWAY_ACCOUNTS__START", "lastest", "accounts.start", "'lastest' should be 'earliest' or 'latest'"),
        ("GATEWAY_ACCOUNTS__START", "-1", "accounts.start", "'-1' should be"),
        ("GATEWAY_SESSION__HISTORY_GRACE", "0", "session.history_grace", "'0' should be greater than 0"),
        ("GATEWAY_LOG__LEVEL", "loud", "log.level", "'loud' should be"),
        ("GATEWAY_HUB__SKIP_NEGOTIATION", "perhaps", "hub.skip_negotiation", "'perhaps' should be a valid boolean"),
    ],
)
def test_a_wrong_value_is_named_with_its_setting_and_meaning(
    refuse: Refuse, variable: str, value: str, setting: str, message: str
) -> None:
    error = refuse(**{variable: value})

    assert error.setting == setting
    assert message in error.problem
    assert error.remedy.startswith("It says: ")


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("GATEWAY_SHARD", "GATEWAY_SHARDS"),
        ("GATEWAY_BROKER_KIND", "GATEWAY_BROKER__KIND"),
        ("GATEWAY_HUB_URL", "GATEWAY_HUB__URL"),
        ("gateway_hub__ulr", "GATEWAY_HUB__URL"),
        ("GATEWAY_ACCOUNT__DIRECTORY", "GATEWAY_ACCOUNTS__DIRECTORY"),
        ("GATEWAY_BROKER__SERVER", "GATEWAY_BROKER__SERVERS"),
    ],
)
def test_an_unknown_name_in_the_environment_is_refused_with_the_nearest(
    refuse: Refuse, variable: str, nearest: str
) -> None:
    error = refuse(**{variable: "x"})

    assert error.setting == variable
    assert error.remedy == f"Did you mean {nearest}?"


def test_a_name_like_nothing_is_refused_with_all_there_are(refuse: Refuse) -> None:
    assert "hub.url, " in refuse(GATEWAY_QQQQ="x").remedy


def test_a_port_that_is_misspelt_is_not_taken_for_one_of_kubernetes(refuse: Refuse) -> None:
    assert refuse(GATEWAY_MONITORIN__PORT="9").remedy == "Did you mean GATEWAY_MONITORING__PORT?"


@pytest.mark.parametrize(
    "variable",
    [
        "GATEWAY_PORT",
        "GATEWAY_PORT_8080_TCP_ADDR",
        "GATEWAY_SERVICE_HOST",
        "GATEWAY_SERVICE_PORT_HTTP",
        "GATEWAY_CONTROL_SERVICE_HOST",
        "OTHER_SHARD",
    ],
)
def test_what_kubernetes_puts_into_the_environment_is_passed_over(load: Load, variable: str) -> None:
    assert load(**{variable: "tcp://10.0.0.1:80"}).shards == 16


@pytest.mark.parametrize(
    ("yaml", "setting", "remedy"),
    [
        ("acounts: {directory: /keys}\n", "acounts", "Did you mean accounts?"),
        ("hub: {url: http://h, page_limt: 5}\n", "hub.page_limt", "Did you mean hub.page_limit?"),
        ("broker: {tls: {ca: x}}\n", "broker.tls.ca", "Did you mean broker.tls.ca_file?"),
    ],
)
def test_an_unknown_setting_in_the_file_is_refused_with_the_nearest(
    refuse: Refuse, yaml: str, setting: str, remedy: str
) -> None:
    error = refuse(yaml)

    assert (error.setting, error.problem, error.remedy) == (setting, "there is no such setting", remedy)


@pytest.mark.parametrize("yaml", ["hub: http://h\n", "hub: [1]\n"])
def test_a_section_that_is_none_is_told_how_to_be_one(refuse: Refuse, yaml: str) -> None:
    assert str(refuse(yaml)) == "hub: is a section, not a value. Write it as `hub: {<name>: …}`."


def test_a_section_in_the_environment_must_be_json(refuse: Refuse) -> None:
    error = refuse(GATEWAY_HUB="http://h")

    assert str(error).startswith("GATEWAY_HUB: its value is no JSON. ")
    assert "GATEWAY_HUB__<NAME>" in error.remedy


def test_a_header_of_the_hub_may_be_a_secret_and_is_not_repeated(refuse: Refuse) -> None:
    error = refuse(GOOD.replace("}\n", ", headers: {X-Key: [s3cret]}}\n", 1))

    assert error.setting == "hub.headers.X-Key"
    assert "s3cret" not in str(error)


def test_headers_of_the_hub_can_be_set_one_by_one_in_the_environment(load: Load) -> None:
    headers = load(GATEWAY_HUB__HEADERS__X_KEY="v").hub.headers
    assert {name: value.get_secret_value() for name, value in headers.items()} == {"x_key": "v"}


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("hub:\n  url: x\n bad: [\n", "is not YAML: line 3, column 2: expected <block end>"),
        ("a: b: c\n", "is not YAML: line 1, column 5: mapping values are not allowed here"),
        ("\thub: x\n", "is not YAML: line 1, column 1: found character"),
        ("- a\n", "holds no settings by name"),
        ("just words\n", "holds no settings by name"),
        ("1: 2\n", "holds no settings by name"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_no_settings_is_refused_in_one_line(refuse: Refuse, yaml: str | bytes, message: str) -> None:
    error = refuse(yaml)

    assert error.setting == "--config"
    assert message in error.problem


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigurationError, match=r"--config: .* cannot be read"):
            load_settings(path, {})


def test_every_setting_says_what_it_means() -> None:
    for name, field in fields():
        assert field.description, name


def test_the_collectors_url_is_a_base_that_may_be_written_with_its_path(load: Load) -> None:
    assert load().tracing.endpoint is None
    for url in ("http://collector:4318", "http://collector:4318/", "http://collector:4318/v1/traces"):
        assert load(GATEWAY_TRACING__ENDPOINT=url).tracing.endpoint == "http://collector:4318"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("collector:4318", "is no http or https URL; write it as http://collector:4318"),
        ("grpc://collector:4317", "is no http or https URL"),
        ("http://user:s3cret@collector", "must not hold credentials"),
        ("http://collector?token=s3cret", "must not have a query"),
    ],
)
def test_what_is_no_url_of_a_collector_is_refused_without_its_secrets(refuse: Refuse, url: str, message: str) -> None:
    error = refuse(GATEWAY_TRACING__ENDPOINT=url)
    assert error.setting == "tracing.endpoint"
    assert message in error.problem
    assert "s3cret" not in str(error)


@pytest.mark.parametrize("ratio", ["-0.1", "1.1", "nan", "much"])
def test_a_ratio_is_from_none_to_all(refuse: Refuse, ratio: str) -> None:
    assert refuse(GATEWAY_TRACING__SAMPLE_RATIO=ratio).setting == "tracing.sample_ratio"


@pytest.mark.parametrize(
    ("enums", "message"),
    [
        ("{SignalStat: [Off, On]}", "'SignalStat' is no enum of the hub; did you mean SignalState?"),
        ("{Weather: [Fair]}", "'Weather' is no enum of the hub; there are SignalState, OrderState,"),
        ("{SignalState: ['Off', 'off']}", "the enum SignalState has the name 'off' twice"),
        ("{SignalState: ['Off', '']}", "the enum SignalState has an empty name"),
        ("{SignalState: 'Off, On'}", "list"),
        ("{SignalState: [0, 1]}", "string"),
        ("[SignalState]", "dictionary"),
    ],
)
def test_names_for_an_enum_s_numbers_that_cannot_be_are_refused(refuse: Refuse, enums: str, message: str) -> None:
    refused = refuse(GOOD.replace("hub: {", f"hub: {{enums: {enums}, "))
    assert refused.setting.startswith("hub.enums")
    assert message in str(refused)


def test_off_and_on_are_names_in_the_file_and_true_and_false_are_not(load: Load) -> None:
    settings = load(GOOD.replace("hub: {", "hub: {enums: {SignalState: [Off, On]}, skip_negotiation: true, "))
    assert settings.hub.enums == {"SignalState": ["Off", "On"]}
    assert settings.hub.skip_negotiation is True
    assert load(GOOD.replace("hub: {", "hub: {skip_negotiation: off, ")).hub.skip_negotiation is False


def test_the_environment_may_name_an_enum_s_numbers(load: Load) -> None:
    settings = load(GATEWAY_HUB__ENUMS='{"SignalState": ["Off", "On"]}')
    assert settings.hub.enums == {"SignalState": ["Off", "On"]}
