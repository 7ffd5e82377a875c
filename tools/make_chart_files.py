"""Prints the chart's values.yaml, values.schema.json or README.md: `make schemas` writes them, `make check` compares.

The settings come from gateway/settings/sections.py, under their own names; what the chart adds stands here, once.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from pydantic_core import to_jsonable_python

from gateway.settings.model import Settings, fields

MADE: Final = "Made by tools/make_chart_files.py: `make schemas`."
OURS: Final = {
    "accounts.directory": "secrets.accounts",
    "control.tokens_file": "secrets.tokens",
}
"""Settings that the chart sets itself, and the value that they follow from."""
SHIPPED: Final[dict[str, Any]] = {
    "hub.url": "",
    "broker.kind": "jetstream",
    "broker.servers": [],
    "broker.replicas": 3,
    "log.format": "json",
}
"""Settings that the values set: what everybody must, and what a cluster needs otherwise than a laptop."""
BECAUSE: Final = {
    "hub.url": "Must be set.",
    "broker.servers": "Must be set.",
    "broker.replicas": "3 outlive the loss of one server, and its power; a single server takes 1 alone.",
    "broker.api_prefix": "Refused here, since the pods are gateways.",
    "hub.headers": "Refused here, since the settings are a ConfigMap: use `hub.headers_file`.",
    "hub.proxy": "With a password use `hub.proxy_file`.",
    "shards": "Helm refuses another number on an installation that runs.",
}
STRING: Final = {"type": "string"}
BOOLEAN: Final = {"type": "boolean"}
OBJECT: Final = {"type": "object"}
STRINGS: Final = {"type": "object", "additionalProperties": {"type": "string"}}
OBJECTS: Final = {"type": "array", "items": {"type": "object"}}
NAME: Final = {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"}
"""Of an object in Kubernetes, or nothing."""


class Value(NamedTuple):
    """One that only the chart has."""

    name: str
    default: Any
    schema: dict[str, Any]
    meaning: str


VALUES: Final = (
    Value(
        "secrets.accounts",
        [],
        {"type": "array", "items": NAME, "uniqueItems": True},
        "Secrets, each entry of which is an account: its name, its API key. None: `<release>-accounts`. The pods wait for them; entries that come, change or go are followed without a restart.",
    ),
    Value(
        "secrets.tokens",
        "",
        NAME,
        "Secret whose entry `tokens` lets callers in to the control plane (`gateway token` makes its lines). Without it only `kubectl port-forward` and `exec` reach it.",
    ),
    Value(
        "secrets.control",
        "",
        NAME,
        "Secret whose entries are files below `/etc/gateway/control`, for `control.tls`, such as one of cert-manager. An Ingress must be told to speak TLS to it: `ingress.annotations`.",
    ),
    Value(
        "secrets.monitoring",
        "",
        NAME,
        "Secret whose entries are files below `/etc/gateway/monitoring`, for `monitoring.tls`. With `client_ca_file` the probes are `gateway health` in the pod, with that certificate, which the CA must have signed for clients, too.",
    ),
    Value(
        "secrets.hub",
        "",
        NAME,
        "Secret whose entries are files below `/etc/gateway/hub`, for `hub.ca_file`, `hub.headers_file` and `hub.proxy_file`.",
    ),
    Value(
        "secrets.broker",
        "",
        NAME,
        "Secret whose entries are files below `/etc/gateway/broker`, for `broker.tls`, `broker.sasl` and `broker.credentials_file`.",
    ),
    Value(
        "secrets.tracing",
        "",
        NAME,
        "Secret whose entries are files below `/etc/gateway/tracing`, for `tracing.headers_file` and `tracing.ca_file`.",
    ),
    Value(
        "replicaCount",
        2,
        {"type": "integer", "minimum": 1, "maximum": 1024},
        "Replicas, which share the accounts. Pause accounts, or uninstall, to publish nothing.",
    ),
    Value(
        "image.repository",
        "mesolive-gateway",
        {"type": "string", "minLength": 1},
        "Where the image is that was built from the Dockerfile.",
    ),
    Value(
        "image.tag",
        "",
        STRING,
        "Its tag; empty: the chart's appVersion. With `tracing.endpoint` it is one that ends with `-tracing`.",
    ),
    Value(
        "image.digest",
        "",
        {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        "Its digest (`sha256:…`), which wins over the tag.",
    ),
    Value("image.pullPolicy", "IfNotPresent", {"enum": ["Always", "IfNotPresent", "Never"]}, "When it is pulled."),
    Value("imagePullSecrets", [], OBJECTS, "Secrets to pull it with: `[{name: …}]`."),
    Value(
        "resources",
        {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        OBJECT,
        "Of each pod: `memory_bytes`, and about 250 MiB. There is no limit of CPU: one that throttles makes replicas take one another for dead.",
    ),
    Value(
        "autoscaling.enabled",
        False,
        BOOLEAN,
        "Let a HorizontalPodAutoscaler choose the number of replicas, instead of `replicaCount`.",
    ),
    Value("autoscaling.minReplicas", 2, {"type": "integer", "minimum": 1}, "The fewest."),
    Value(
        "autoscaling.maxReplicas", 8, {"type": "integer", "minimum": 1}, "The most; more than `shards` are of no use."
    ),
    Value(
        "autoscaling.cpuUtilization",
        60,
        {"type": "integer", "minimum": 1},
        "Percent of the CPU that is requested, at which replicas are added.",
    ),
    Value("podDisruptionBudget.enabled", True, BOOLEAN, "Let nodes be drained one replica at a time."),
    Value(
        "topologySpread.whenUnsatisfiable",
        "ScheduleAnyway",
        {"enum": ["ScheduleAnyway", "DoNotSchedule"]},
        "What to do where replicas cannot be spread over zones and nodes.",
    ),
    Value(
        "networkPolicy.enabled",
        True,
        BOOLEAN,
        "Permit only what is needed: names, the ports of hub, broker and collector as the settings name them; inwards the monitoring and the control port. Where a Service or an advertised listener of Kafka maps its port to another one, permit that one by `extraEgress`.",
    ),
    Value(
        "networkPolicy.from.control",
        [],
        OBJECTS,
        "NetworkPolicyPeers that may reach the control port, such as the Ingress controller; none: all, who need a token.",
    ),
    Value(
        "networkPolicy.from.monitoring",
        [],
        OBJECTS,
        "NetworkPolicyPeers that may reach the monitoring port besides the pods of this namespace, as `[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]` lets in a Prometheus of that namespace.",
    ),
    Value(
        "networkPolicy.to.hub",
        [],
        OBJECTS,
        "NetworkPolicyPeers where the hub (or `hub.proxy`) is; none: anywhere, on its port.",
    ),
    Value("networkPolicy.to.broker", [], OBJECTS, "Likewise of the broker."),
    Value("networkPolicy.to.tracing", [], OBJECTS, "Likewise of the collector."),
    Value("networkPolicy.extraEgress", [], OBJECTS, "Further NetworkPolicyEgressRules."),
    Value(
        "serviceAccount.create",
        True,
        BOOLEAN,
        "Make a ServiceAccount. The gateway never talks to Kubernetes: no token is mounted.",
    ),
    Value("serviceAccount.name", "", NAME, "Its name; empty: the release's, or `default` where none is made."),
    Value("serviceAccount.annotations", {}, STRINGS, "Its annotations."),
    Value("ingress.enabled", False, BOOLEAN, "Make an Ingress for the control plane; needs `secrets.tokens`."),
    Value("ingress.className", "", STRING, "Its class."),
    Value("ingress.host", "", STRING, "The name under which it is reached."),
    Value("ingress.tlsSecret", "", NAME, "Secret with the certificate of that name; needed, but for `allowPlain`."),
    Value(
        "ingress.allowPlain",
        False,
        BOOLEAN,
        "Make it without a certificate: tokens come in clear, unless something before the Ingress ends TLS.",
    ),
    Value("ingress.annotations", {}, STRINGS, "Its annotations."),
    Value("serviceMonitor.enabled", False, BOOLEAN, "Let a Prometheus of the operator scrape the replicas."),
    Value("serviceMonitor.interval", "15s", {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"}, "How often."),
    Value(
        "serviceMonitor.tlsConfig",
        {},
        OBJECT,
        "How it verifies `monitoring.tls`: a TLSConfig of the operator, with `ca`, `serverName`, and `cert` and `keySecret` where clients need a certificate.",
    ),
    Value("serviceMonitor.labels", {}, STRINGS, "Labels by which that Prometheus chooses: `{release: prometheus}`."),
    Value("prometheusRule.enabled", False, BOOLEAN, "Make the alerts."),
    Value("prometheusRule.labels", {}, STRINGS, "Labels by which Prometheus chooses."),
    Value(
        "prometheusRule.runbookBase",
        "",
        STRING,
        "Address of your copy of the repository, put before the path of the runbook in each alert.",
    ),
    Value("dashboards.enabled", False, BOOLEAN, "Make a ConfigMap of the two dashboards, for Grafana's sidecar."),
    Value("dashboards.labels", {"grafana_dashboard": "1"}, STRINGS, "Labels by which the sidecar chooses."),
    Value("dashboards.annotations", {}, STRINGS, "Annotations, such as the sidecar's folder."),
    Value("podLabels", {}, STRINGS, "Further labels of the replicas' pods."),
    Value("podAnnotations", {}, STRINGS, "Further annotations of them."),
    Value("priorityClassName", "", STRING, "Their priority class."),
    Value("nodeSelector", {}, STRINGS, "Nodes that they may run on."),
    Value("tolerations", [], OBJECTS, "Taints that they tolerate."),
    Value("affinity", {}, OBJECT, "Their affinity."),
    Value(
        "extraEnv",
        [],
        OBJECTS,
        "Further environment: a setting from a Secret, `[{name: …, valueFrom: …}]`.",
    ),
    Value("extraVolumes", [], OBJECTS, "Further volumes."),
    Value("extraVolumeMounts", [], OBJECTS, "Where they are mounted."),
    Value("extraObjects", [], OBJECTS, "Further objects, such as an ExternalSecret; templates in them are rendered."),
    Value("nameOverride", "", NAME, "Another name for the chart."),
    Value("fullnameOverride", "", NAME, "Another name for all objects."),
)


def settings() -> Iterator[Value]:
    """Yield each setting that may be among the values."""
    for name, field in fields():
        if name not in OURS:
            default = to_jsonable_python(field.get_default(call_default_factory=True, validated_data={}))
            meaning = " ".join(filter(None, [(field.description or "").replace("\n", " "), BECAUSE.get(name)]))
            yield Value(name, SHIPPED.get(name, default), {}, meaning)


def nested(flat: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """Put dotted names into sections."""
    whole: dict[str, Any] = {}
    for name, value in flat:
        *sections, last = name.split(".")
        place = whole
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return whole


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Refuse every name that is not there, in words that tell those that are; a section may be empty.

    `additionalProperties: false` tells none, and Helm 3.22 tells a wrong place for `propertyNames`.
    """
    absent = f"absent: there is no such name, but {', '.join(sorted(schema))}"
    return {"type": ["object", "null"], "properties": schema, "additionalProperties": {"const": absent}}


def of_settings(schema: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return pydantic's schema of a section as one without references."""
    made = {}
    for name, field in schema["properties"].items():
        path = f"{prefix}{name}"
        reference = field.get("$ref")
        if reference is not None:
            made[name] = of_settings(definitions[reference.rpartition("/")[2]], definitions, f"{path}.")
        elif path not in OURS:
            made[name] = {key: part for key, part in field.items() if key not in {"title", "default", "description"}}
            kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
            if len(kinds) == 1:  # or null
                made[name] = {**kinds[0], "type": [kinds[0]["type"], "null"]}
            made[name].pop("format", None)
    if prefix == "broker.":
        made["servers"].pop("minItems")  # the templates say it in words
    return made if not prefix else strict(made)


def sections(own: dict[str, Any]) -> dict[str, Any]:
    """Make strict schemas of what the chart adds."""
    return {name: part if part.keys() & {"type", "enum"} else strict(sections(part)) for name, part in own.items()}


def schema() -> str:
    """Return values.schema.json."""
    whole = Settings.model_json_schema()
    own = sections(nested((value.name, value.schema) for value in VALUES))
    ours = of_settings(whole, whole["$defs"])
    top = strict({**ours, **own, "global": {"type": ["object", "null"]}})  # Helm adds `global` where this is a subchart
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", "$comment": MADE, **top}, indent=2)


def values() -> str:
    """Return values.yaml: what is set, and as comments what else may be."""
    lines = [
        f"# {MADE}",
        "#",
        "# The gateway's settings, by their own names, then what is Kubernetes' own. Settings with a # before them show",
        "# the gateway's default. Secrets are never values: they are files from Secrets, below /etc/gateway.",
    ]
    before: list[str] = []
    for value in (*settings(), *VALUES):
        *names, last = value.name.split(".")
        is_set = value.schema != {} or value.name in SHIPPED
        common = next(
            (at for at, (old, new) in enumerate(zip(before, names, strict=False)) if old != new),
            min(len(before), len(names)),
        )
        if not names or names[0] not in before:
            lines.append("")
        lines += [f"{'  ' * depth}{names[depth]}:" for depth in range(common, len(names))]
        before = names
        indent = "  " * len(names)
        lines += textwrap.wrap(
            value.meaning,
            116 - len(indent),
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines.append(f"{indent}{'' if is_set else '# '}{last}: {json.dumps(value.default)}")  # JSON is YAML
    return "\n".join(lines)


def readme() -> str:
    """Return the chart's README.md."""
    rows = [
        f"| `{value.name}` | `{json.dumps(value.default)}` | {value.meaning.replace('|', chr(92) + '|')} |"
        for value in (*VALUES, *settings())
    ]
    return README.format(made=MADE, table="\n".join(rows))


README: Final = """\
# MesoLive event gateway

<!-- {made} -->

Needs Kubernetes 1.27 or later, Helm 3, a NATS with JetStream or a Kafka, and the image in a registry of yours:

    docker build -t registry.example/mesolive-gateway:0.1.0 . && docker push registry.example/mesolive-gateway:0.1.0

    kubectl create secret generic gateway-accounts --from-file=main      # the file main holds the key of account main
    helm install gateway helm/mesolive-gateway --set image.repository=registry.example/mesolive-gateway \\
        --set hub.url=https://api.example.com --set 'broker.servers={{nats://nats:4222}}' \\
        --set 'secrets.accounts={{gateway-accounts}}'
    helm test gateway --logs                                             # what `gateway check` says

For Kafka: `--set broker.kind=kafka --set 'broker.servers={{kafka-1:9092,kafka-2:9092}}'`. A password, with the Secret
`gateway-broker` that holds the entry `password`:

    secrets: {{broker: gateway-broker}}
    broker: {{sasl: {{mechanism: SCRAM-SHA-512, username: gateway, password_file: /etc/gateway/broker/password}}}}

A release with other settings rolls the pods, one at a time, and stops at the first that does not become ready. Keys of
accounts, tokens and passwords roll nothing: they are read again. `shards`, and on Kafka `topics.partitions`, stay what they
were at the first start. How to size, upgrade, back up and mend it: [operations](../../docs/operate/operations.md).

## Values

| value | default | meaning |
|---|---|---|
{table}
"""


def main() -> None:
    print({"schema": schema, "values": values, "readme": readme}[sys.argv[1]]().rstrip("\n"))


if __name__ == "__main__":
    main()
