"""The chart renders what Kubernetes takes, whatever is switched on, and refuses in words what cannot work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

import gateway
from gateway.settings.load import load_settings
from gateway.settings.model import Settings, fields
from tests.support.charts import CHART, NEEDED, merged, objects, refusal, run, template
from tests.support.matrix import KAFKA, MATRIX, TLS

VERSIONS: Final = ("1.30", "1.33", "1.36")
"""Of Kubernetes."""
NAME: Final = "gateway-mesolive-gateway"


each_case = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())


def deployment(values: dict[str, Any]) -> dict[str, Any]:
    return next(one for (kind, _), one in objects(values).items() if kind == "Deployment")


def settings_of(values: dict[str, Any], folder: Path, name: str = NAME) -> Settings:
    """Read the settings as the gateway in the pod would."""
    file = folder / "gateway.yaml"
    file.write_text(objects(values)["ConfigMap", name]["data"]["gateway.yaml"])
    return load_settings(file, {})


@each_case
def test_helm_lint_is_content(values: dict[str, Any]) -> None:
    code, out, errors = run("lint", "--strict", CHART, "--kube-version", "1.33.0", values=merged(NEEDED, values))
    assert code == 0, out + errors


@pytest.mark.parametrize("version", VERSIONS)
@each_case
def test_kubernetes_takes_every_object_and_knows_every_field(values: dict[str, Any], version: str) -> None:
    for (kind, name), one in objects(values).items():
        if not one["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes_validate.validate(one, version, strict=True)
        assert name.startswith(("gateway", "events")), kind


def test_a_misspelt_field_and_a_wrong_type_would_be_seen() -> None:
    for path, value in (("enableServiceLink", False), ("terminationGracePeriodSeconds", "soon")):
        one = deployment({})
        one["spec"]["template"]["spec"][path] = value
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(one, VERSIONS[0], strict=True)


@each_case
def test_pods_have_no_root_no_privilege_no_token_and_a_limit(values: dict[str, Any]) -> None:
    found = objects(values)
    pods = [one["spec"]["template"]["spec"] for (kind, _), one in found.items() if kind in {"Deployment", "Job"}]
    assert len(pods) == 2
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10_000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert re.search(r":\d|@sha256:", container["image"])
        assert not any("hostPath" in volume for volume in pod["volumes"])
        assert "subPath" not in json.dumps(container["volumeMounts"])


@each_case
def test_what_the_chart_selects_is_there(values: dict[str, Any]) -> None:
    found = objects(values)
    labels = deployment(values)["spec"]["template"]["metadata"]["labels"].items()
    job = next(one for (kind, _), one in found.items() if kind == "Job")["spec"]["template"]["metadata"][
        "labels"
    ].items()
    for (kind, name), one in found.items():
        if kind in {"Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment"}:
            chosen = one["spec"].get("selector") or one["spec"]["podSelector"]
            chosen = chosen.get("matchLabels", chosen).items()
            assert chosen <= labels
            assert (chosen <= job) == (kind == "NetworkPolicy"), name
        if kind == "ServiceMonitor":
            service = found["Service", name]
            assert one["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
            assert one["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
        if kind == "Ingress":
            backend = one["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
            ports = found["Service", backend["name"]]["spec"]["ports"]
            assert backend["port"]["name"] in {port["name"] for port in ports}


@pytest.mark.parametrize(
    "case", ["jetstream", "kafka", "jetstream with TLS", "kafka with SASL", "traces", "all settings"]
)
def test_the_values_are_the_settings(tmp_path: Path, case: str) -> None:
    values = merged(NEEDED, MATRIX[case])
    settings = settings_of(values, tmp_path)
    assert str(settings.accounts.directory) == "/etc/gateway/accounts"
    assert settings.broker.replicas == 3
    for name, _ in fields():
        place: Any = values
        for part in name.split("."):
            place = place.get(part, "not set") if isinstance(place, dict) else "not set"
        if place != "not set":
            read: Any = settings
            for part in name.split("."):
                read = getattr(read, part)
            assert (str(read) if isinstance(read, Path) else read) == place, name


def test_every_setting_is_among_the_values_under_its_name() -> None:
    text = (CHART / "values.yaml").read_text("utf-8")
    shown = yaml.safe_load(re.sub(r"^( *)# (\w+: .*)$", r"\1\2", text, flags=re.MULTILINE))
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    for name, _ in fields():
        place, known = shown, schema
        if name in {"accounts.directory", "control.tokens_file"}:  # the chart's own
            continue
        for part in name.split("."):
            place, known = place[part], known["properties"][part]


def test_the_chart_is_of_this_release() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == gateway.__version__
    assert (
        deployment({})["spec"]["template"]["spec"]["containers"][0]["image"]
        == f"mesolive-gateway:{gateway.__version__}"
    )


def test_accounts_are_one_projected_volume_of_all_their_secrets() -> None:
    def sources(values: dict[str, Any]) -> list[str]:
        (volume,) = [
            one for one in deployment(values)["spec"]["template"]["spec"]["volumes"] if one["name"] == "accounts"
        ]
        assert not any("optional" in one["secret"] for one in volume["projected"]["sources"])  # the pods wait for it
        return [one["secret"]["name"] for one in volume["projected"]["sources"]]

    assert sources({}) == [f"{NAME}-accounts"]
    assert sources({"secrets": {"accounts": ["desk-a", "desk-b"]}}) == ["desk-a", "desk-b"]


def test_settings_roll_the_pods_and_nothing_of_the_secrets_does() -> None:
    before = deployment({})["spec"]["template"]["metadata"]["annotations"]
    assert deployment({"replicaCount": 5})["spec"]["template"]["metadata"]["annotations"] == before
    assert deployment({"hub": {"call_timeout": 10}})["spec"]["template"]["metadata"]["annotations"] != before


def test_a_roll_takes_one_pod_at_a_time_and_waits_for_its_hand_over() -> None:
    spec = deployment({})["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > 7 + 3
    (container,) = spec["template"]["spec"]["containers"]
    probes = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert probes == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert {container[name]["httpGet"]["port"] for name in probes} == {"monitoring"}


def test_the_number_of_pods_is_the_autoscaler_s_alone_where_there_is_one() -> None:
    assert "replicas" not in deployment(MATRIX["autoscaling"])["spec"]
    assert deployment({})["spec"]["replicas"] == 2
    assert not any(kind == "HorizontalPodAutoscaler" for kind, _ in objects({}))


@pytest.mark.parametrize(
    ("values", "ports"),
    [
        ({}, [443, 4222]),
        (KAFKA, [443, 9093]),
        (
            {"hub": {"url": "http://hub"}, "broker": {"servers": ["nats://a", "tls://b:4333/", "wss://c"]}},
            [80, 443, 4222, 4333],
        ),
        ({"hub": {"url": "https://hub:8443", "proxy": "http://proxy:3128"}}, [3128, 4222]),
        ({"tracing": {"endpoint": "http://collector:4318"}}, [443, 4222, 4318]),
    ],
)
def test_the_network_policy_lets_out_to_dns_hub_broker_and_collector_alone(
    values: dict[str, Any], ports: list[int]
) -> None:
    rules = objects(values)["NetworkPolicy", NAME]["spec"]["egress"]
    assert {one["port"] for one in rules[0]["ports"]} == {53, 5353}
    assert sorted({one["port"] for rule in rules[1:] for one in rule["ports"]}) == ports


def test_the_control_port_is_served_where_there_are_tokens_alone(tmp_path: Path) -> None:
    def ports(values: dict[str, Any]) -> list[str]:
        return [port["name"] for port in objects(values)["Service", NAME]["spec"]["ports"]]

    assert ports({}) == ["monitoring"]
    assert ports(MATRIX["tokens and ingress"]) == ["control", "monitoring"]
    assert settings_of({}, tmp_path).control.tokens_file is None
    assert settings_of(MATRIX["tokens and ingress"], tmp_path).control.tokens_file == Path("/etc/gateway/tokens/tokens")


def test_alerts_and_dashboards_are_those_that_are_tested() -> None:
    found = objects(MATRIX["monitoring"])
    rules = yaml.safe_load((CHART / "rules" / "mesolive-gateway.yaml").read_text("utf-8"))
    made = found["PrometheusRule", NAME]["spec"]
    for group in made["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                address = rule["annotations"]["runbook_url"]
                assert address.startswith("https://git.example.com/gateway/blob/main/docs/operate/runbook.md#")
                rule["annotations"]["runbook_url"] = address.removeprefix("https://git.example.com/gateway/blob/main/")
    assert made == rules
    boards = found["ConfigMap", f"{NAME}-dashboards"]
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name.removeprefix("mesolive-gateway-"): json.loads(text) for name, text in boards["data"].items()} == {
        file.name: json.loads(file.read_text("utf-8")) for file in (CHART / "dashboards").glob("*.json")
    }


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"replicaCout": 3}, ["/replicaCout", "no such name, but", "replicaCount"]),
        ({"broker": {"server": []}}, ["/broker/server'", "no such name, but", "servers"]),
        ({"broker": {"kafka": {"servers": []}}}, ["/broker/kafka", "no such name, but", "kind"]),
        ({"accounts": {"directory": "/keys"}}, ["/accounts/directory", "no such name"]),
        ({"replicaCount": 0}, ["/replicaCount", "got 0, want 1"]),
        ({"shards": -4}, ["/shards", "got -4, want 1"]),
        ({"shards": "many"}, ["/shards", "got string, want integer"]),
        ({"broker": {"kind": "rabbitmq"}}, ["/broker/kind", "'jetstream', 'kafka'"]),
        ({"control": {"port": 99999}}, ["/control/port", "65,535"]),
        ({"hub": {"url": ""}}, ["hub.url", "https://api.example.com"]),
        ({"hub": {"url": "api.example.com"}}, ["hub.url", "https://api.example.com"]),
        ({"broker": {"servers": []}}, ["broker.servers is empty", "nats://nats:4222"]),
        ({"broker": {"kind": "kafka"}}, ["broker.kind is kafka", "nats://nats:4222", "one broker", "set broker.kind"]),
        ({"broker": {"servers": ["kafka:9092"]}}, ["broker.kind is jetstream", "kafka:9092", "set broker.kind"]),
        (merged(KAFKA, {"broker": {"credentials_file": "/x"}}), ["broker.credentials_file is for NATS"]),
        ({"broker": {"sasl": {"mechanism": "PLAIN"}}}, ["broker.sasl.mechanism is for Kafka"]),
        ({"broker": {"api_prefix": "gateway.API"}}, ["broker.api_prefix is gateway.API", "leave it out"]),
        ({"hub": {"ca_file": "/etc/gateway/hub/ca.crt"}}, ["secrets.hub is not set"]),
        ({"ingress": {"enabled": True, "host": "a.example"}}, ["secrets.tokens", "gateway token"]),
        ({"ingress": {"enabled": True}, "secrets": {"tokens": "t"}}, ["ingress.host"]),
        (
            {"ingress": {"enabled": True, "host": "a.example"}, "secrets": {"tokens": "t"}},
            ["ingress.tlsSecret", "ingress.allowPlain"],
        ),
        ({"control": {"tls": TLS("control")}}, ["/etc/gateway/control/", "secrets.control is not set"]),
        ({"monitoring": {"tls": TLS("monitoring")}}, ["secrets.monitoring is not set"]),
        ({"networkPolicy": {"from": [{"podSelector": {}}]}}, ["/networkPolicy/from", "got array, want null or object"]),
        (
            {"autoscaling": {"enabled": True, "minReplicas": 9}},
            ["minReplicas (9) is above autoscaling.maxReplicas (8)"],
        ),
        ({"image": {"tag": "latest"}}, ["image.tag is latest"]),
        ({"control": {"port": 9090}}, ["control.port and monitoring.port are both 9090"]),
        ({"monitoring": {"port": 8080}}, ["control.port and monitoring.port are both 8080"]),
        ({"monitoring": {"port": 0}}, ["monitoring.port is 0", "Leave it out"]),
        ({"control": {"port": 0}}, ["control.port is 0", "Leave it out"]),
        ({"monitoring": {"host": "127.0.0.1"}}, ["monitoring.host is 127.0.0.1", "probes"]),
        ({"monitoring": {"host": "::1"}}, ["monitoring.host is ::1", "probes"]),
        ({"control": {"host": "localhost"}, "secrets": {"tokens": "t"}}, ["control.host is localhost", "the Service"]),
    ],
)
def test_what_cannot_work_is_refused_in_words(values: dict[str, Any], messages: list[str]) -> None:
    output = refusal(values)
    for part in messages:
        assert part in output


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({"hub": {"headers": {"x-key": "s3cret"}}}, ["hub.headers would", "hub.headers_file"]),
        ({"hub": {"proxy": "http://user:s3cret@proxy:3128"}}, ["hub.proxy holds", "hub.proxy_file"]),
        ({"hub": {"url": "https://user:s3cret@hub"}}, ["hub.url must not"]),
        ({"broker": {"servers": ["nats://nats:4222", "nats://user:s3cret@nats:4222"]}}, ["broker.servers must not"]),
        ({"broker": {"servers": ["user:s3cret@kafka:9092"]}}, ["broker.servers must not", "password_file"]),
        ({"tracing": {"endpoint": "https://user:s3cret@collector"}}, ["tracing.endpoint must not"]),
        ({"extraEnv": [{"name": "GATEWAY_HUB__HEADERS__X-KEY", "value": "s3cret"}]}, ["extraEnv", "valueFrom"]),
        ({"extraEnv": [{"name": "GATEWAY_HUB__PROXY", "value": "http://u:s3cret@proxy:1"}]}, ["extraEnv", "valueFrom"]),
        ({"extraEnv": [{"name": "gateway_hub__headers__x-key", "value": "s3cret"}]}, ["extraEnv", "valueFrom"]),
        ({"extraEnv": [{"name": "GATEWAY_HUB", "value": '{"headers":{"X":"s3cret"}}'}]}, ["extraEnv", "valueFrom"]),
        (
            {"extraEnv": [{"name": "GATEWAY_HUB", "value": '{"proxy":"http://u:s3cret@p:1"}'}]},
            ["extraEnv", "valueFrom"],
        ),
        (
            {"extraEnv": [{"name": "GATEWAY_BROKER__SERVERS", "value": "nats://u:s3cret@n:1"}]},
            ["extraEnv", "valueFrom"],
        ),
    ],
)
def test_a_secret_among_the_settings_is_refused_and_not_shown(values: dict[str, Any], messages: list[str]) -> None:
    output = refusal(values)
    assert "s3cret" not in output
    for part in messages:
        assert part in output


def test_what_is_no_secret_passes() -> None:
    from_secret = {"name": "GATEWAY_HUB__HEADERS__X-KEY", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
    template({"hub": {"proxy": "http://proxy:3128"}, "extraEnv": [from_secret]})
    template(
        {"extraEnv": [{"name": "GATEWAY_HUB", "value": '{"page_limit":500}'}, {"name": "CONTACT", "value": "a@b.c"}]}
    )
    template({"monitoring": {"port": 9091}, "control": {"port": 9090, "host": "127.0.0.1"}})
    template({"ingress": {"enabled": True, "host": "a.example", "allowPlain": True}, "secrets": {"tokens": "t"}})


def test_each_port_lets_in_its_own_peers() -> None:
    def rules(values: dict[str, Any]) -> list[tuple[str, Any]]:
        ingress = objects(values)["NetworkPolicy", NAME]["spec"]["ingress"]
        return [(rule["ports"][0]["port"], rule.get("from")) for rule in ingress]

    here: dict[str, Any] = {"podSelector": {}}
    prometheus, proxy = {"namespaceSelector": {"matchLabels": {"a": "b"}}}, {"podSelector": {"matchLabels": {"c": "d"}}}
    lists = {"networkPolicy": {"from": {"control": [proxy], "monitoring": [prometheus]}}}
    tokens = {"secrets": {"tokens": "t"}}
    assert rules({}) == [("monitoring", [here])]
    assert rules(tokens) == [("monitoring", [here]), ("control", None)]
    assert rules(merged(tokens, lists)) == [("monitoring", [here, prometheus]), ("control", [proxy])]


def test_probes_and_scrapes_follow_the_tls_of_the_monitoring_listener(tmp_path: Path) -> None:
    def probes(case: str) -> dict[str, Any]:
        (container,) = deployment(MATRIX[case])["spec"]["template"]["spec"]["containers"]
        return {name: container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")}

    def scrape(case: str) -> dict[str, Any]:
        (endpoint,) = objects(MATRIX[case])["ServiceMonitor", NAME]["spec"]["endpoints"]
        return dict(endpoint)

    assert [one["httpGet"]["scheme"] for one in probes("TLS on both listeners").values()] == ["HTTPS"] * 3
    asked = {name: one["exec"]["command"] for name, one in probes("certificates of clients").items()}
    files = ["--cert-file=/etc/gateway/monitoring/tls.crt", "--key-file=/etc/gateway/monitoring/tls.key"]
    alive = ["gateway", "health", "--url=https://127.0.0.1:9443", *files]
    assert asked["startupProbe"] == asked["livenessProbe"] == alive
    assert asked["readinessProbe"] == [*alive[:2], "--ready", *alive[2:]]
    assert scrape("TLS on both listeners")["scheme"] == "https"
    assert scrape("TLS on both listeners")["tlsConfig"] == {"serverName": "gateway", "ca": {}}
    assert "scheme" not in scrape("monitoring")
    settings = settings_of(MATRIX["certificates of clients"], tmp_path)
    assert settings.monitoring.tls.client_ca_file == Path("/etc/gateway/monitoring/ca.crt")
    assert settings.control.tls.key_file == Path("/etc/gateway/control/tls.key")


def test_the_chart_may_be_part_of_another() -> None:
    template({"global": {"imageRegistry": "registry.example"}})
