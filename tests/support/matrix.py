"""What the chart is rendered with in the tests: each thing that can be switched on."""

from __future__ import annotations

from typing import Any, Final

from tests.support.charts import merged

KAFKA: Final = {"broker": {"kind": "kafka", "servers": ["kafka-1:9093", "kafka-2:9093"]}}


def TLS(listener: str) -> dict[str, str]:  # noqa: N802 - like the constants beside it
    """Return the settings of a listener with the files of its Secret."""
    return {"cert_file": f"/etc/gateway/{listener}/tls.crt", "key_file": f"/etc/gateway/{listener}/tls.key"}


def MUTUAL(listener: str) -> dict[str, str]:  # noqa: N802 - likewise
    """Return those of one that lets in clients with a certificate alone."""
    return {**TLS(listener), "client_ca_file": f"/etc/gateway/{listener}/ca.crt"}


MATRIX: Final[dict[str, dict[str, Any]]] = {
    "jetstream": {},
    "kafka": KAFKA,
    "jetstream with TLS": {
        "broker": {
            "servers": ["tls://nats-1:4222", "tls://nats-2:4223"],
            "credentials_file": "/etc/gateway/broker/gateway.creds",
            "tls": {
                "ca_file": "/etc/gateway/broker/ca.crt",
                "cert_file": "/etc/gateway/broker/tls.crt",
                "key_file": "/etc/gateway/broker/tls.key",
            },
        },
        "secrets": {"broker": "gateway-broker"},
    },
    "kafka with SASL": merged(
        KAFKA,
        {
            "broker": {
                "tls": {"enabled": True},
                "sasl": {
                    "mechanism": "SCRAM-SHA-512",
                    "username": "gateway",
                    "password_file": "/etc/gateway/broker/password",
                },
            },
            "secrets": {"broker": "gateway-broker"},
        },
    ),
    "accounts of several Secrets": {"secrets": {"accounts": ["desk-a", "desk-b"]}},
    "tokens and ingress": {
        "secrets": {"tokens": "gateway-tokens"},
        "ingress": {"enabled": True, "className": "nginx", "host": "gateway.example.com", "tlsSecret": "gateway-tls"},
    },
    "TLS on both listeners": {
        "control": {"tls": TLS("control"), "trusted_proxies": ["10.42.0.0/16"]},
        "monitoring": {"tls": TLS("monitoring")},
        "secrets": {"tokens": "gateway-tokens", "control": "gateway-tls", "monitoring": "gateway-tls"},
        "ingress": {"enabled": True, "host": "gateway.example.com", "tlsSecret": "gateway-tls"},
        "serviceMonitor": {"enabled": True, "tlsConfig": {"serverName": "gateway", "ca": {}}},
    },
    "certificates of clients": {
        "control": {"tls": MUTUAL("control")},
        "monitoring": {"tls": MUTUAL("monitoring"), "port": 9443},
        "secrets": {"tokens": "gateway-tokens", "control": "gateway-tls", "monitoring": "gateway-tls"},
        "serviceMonitor": {"enabled": True},
    },
    "autoscaling": {"autoscaling": {"enabled": True}},
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "runbookBase": "https://git.example.com/gateway/blob/main/"},
        "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Trading"}},
    },
    "traces": {
        "tracing": {"endpoint": "http://collector:4318", "headers_file": "/etc/gateway/tracing/headers"},
        "secrets": {"tracing": "collector"},
    },
    "a private hub": {
        "hub": {"url": "https://hub.internal:8443", "ca_file": "/etc/gateway/hub/ca.crt"},
        "secrets": {"hub": "hub-ca"},
        "networkPolicy": {
            "from": {"control": [{"namespaceSelector": {}}], "monitoring": [{"namespaceSelector": {}}]},
            "to": {"hub": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "broker": [{"podSelector": {}}]},
            "extraEgress": [{"ports": [{"port": 9999}]}],
        },
    },
    "all off": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "serviceAccount": {"create": False},
    },
    "all settings": {"topics": {"retention": None, "partitions": 12}, "shards": 32, "memory_bytes": 536_870_912},
    "pods": {
        "image": {"repository": "registry.example/gateway", "digest": f"sha256:{'0' * 64}"},
        "imagePullSecrets": [{"name": "registry"}],
        "podLabels": {"team": "trading"},
        "podAnnotations": {"example.com/owner": "trading"},
        "priorityClassName": "high",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "trading", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpread": {"whenUnsatisfiable": "DoNotSchedule"},
        "extraEnv": [{"name": "GATEWAY_LOG__LEVEL", "value": "debug"}],
        "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        "extraObjects": [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "{{ .Release.Name }}-accounts"}, "data": {}}
        ],
        "fullnameOverride": "events",
    },
}
