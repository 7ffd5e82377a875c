{{/* What a schema cannot say, in words: what is wrong, and what would be right. */}}
{{- define "gateway.checks" -}}
{{- include "gateway.noSecrets" . -}}
{{- if not (regexMatch "^https?://[^/]" (.Values.hub.url | default "")) -}}
{{- fail (printf "\n\nhub.url is %q: set it to where the hub is, such as https://api.example.com, without /hubs/event/v1." (.Values.hub.url | default "")) -}}
{{- end -}}
{{- with .Values.broker -}}
{{- $isKafka := eq (.kind | default "jetstream") "kafka" -}}
{{- if not .servers -}}
{{- fail (printf "\n\nbroker.servers is empty: name the %s, such as %s." (ternary "Kafka brokers" "NATS servers" $isKafka) (ternary "[kafka-1:9092, kafka-2:9092]" "[\"nats://nats:4222\"]" $isKafka)) -}}
{{- end -}}
{{- range .servers -}}
{{- if and $isKafka (contains "://" .) -}}
{{- fail (printf "\n\nbroker.kind is kafka, and broker.servers names %s: a gateway publishes to one broker. Give host:port for Kafka, or set broker.kind to jetstream." .) -}}
{{- else if not (or $isKafka (contains "://" .)) -}}
{{- fail (printf "\n\nbroker.kind is jetstream, and broker.servers names %s: write nats://%s (or tls://), or set broker.kind to kafka." . .) -}}
{{- end -}}
{{- end -}}
{{- if and $isKafka .credentials_file -}}
{{- fail "\n\nbroker.kind is kafka, and broker.credentials_file is for NATS: use broker.sasl or broker.tls, or set broker.kind to jetstream." -}}
{{- else if and (not $isKafka) (.sasl | default dict).mechanism -}}
{{- fail "\n\nbroker.kind is jetstream, and broker.sasl.mechanism is for Kafka: leave it out, or set broker.kind to kafka." -}}
{{- else if and (not $isKafka) (ne (.api_prefix | default "$JS.API") "$JS.API") -}}
{{- fail (printf "\n\nbroker.api_prefix is %s, and the gateway writes only to the streams of its own account: leave it out. Only `gateway tail` and `gateway verify` take it." .api_prefix) -}}
{{- end -}}
{{- end -}}
{{- range regexFindAll "/etc/gateway/(tokens|control|monitoring|hub|broker|tracing)/" (include "gateway.settings" .) -1 | uniq -}}
{{- $name := base . -}}
{{- if not (index $.Values.secrets $name) -}}
{{- fail (printf "\n\na setting names a file below %s, and secrets.%s is not set: name the Secret that holds it." . $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.secrets.tokens) -}}
{{- fail "\n\ningress.enabled needs secrets.tokens: without tokens the control plane listens on the pod's loopback only. `gateway token` makes a line for it." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "\n\ningress.enabled needs ingress.host: the name under which the control plane is reached." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.tlsSecret) (not .Values.ingress.allowPlain) -}}
{{- fail "\n\ningress.enabled needs ingress.tlsSecret: without it tokens come in clear from the callers. Name the Secret with the certificate of ingress.host, or set ingress.allowPlain to true where something before the Ingress ends TLS." -}}
{{- end -}}
{{- include "gateway.listenerChecks" . -}}
{{- with .Values.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "\n\nautoscaling.minReplicas (%d) is above autoscaling.maxReplicas (%d)." (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and (eq (.Values.image.tag | default "") "latest") (not .Values.image.digest) -}}
{{- fail "\n\nimage.tag is latest, which names another image tomorrow: name a release, or set image.digest." -}}
{{- end -}}
{{- include "gateway.fixed" . -}}
{{- end }}

{{/* Pods that start, and that no probe and no Service reaches. */}}
{{- define "gateway.listenerChecks" -}}
{{- $control := .Values.control | default dict -}}
{{- $monitoring := .Values.monitoring | default dict -}}
{{- range $name, $section := dict "control" $control "monitoring" $monitoring -}}
{{- if and (hasKey $section "port") (eq (int $section.port) 0) -}}
{{- fail (printf "\n\n%s.port is 0, which is another free port at each start: probes, the Service and the NetworkPolicy need one that is known. Leave it out, or give a number." $name) -}}
{{- end -}}
{{- end -}}
{{- $ports := include "gateway.ports" . | fromYaml -}}
{{- if eq (int $ports.control) (int $ports.monitoring) -}}
{{- fail (printf "\n\ncontrol.port and monitoring.port are both %d: give each its own." (int $ports.control)) -}}
{{- end -}}
{{- $loopback := "^(localhost|127\\..*|::1)$" -}}
{{- if and (regexMatch $loopback ($monitoring.host | default "")) (not ($monitoring.tls | default dict).client_ca_file) -}}
{{- fail (printf "\n\nmonitoring.host is %s, where the kubelet's probes do not reach it: it would end the pods again and again. Leave it out; networkPolicy.from.monitoring says who may reach the port." $monitoring.host) -}}
{{- end -}}
{{- if and .Values.secrets.tokens (regexMatch $loopback ($control.host | default "")) -}}
{{- fail (printf "\n\ncontrol.host is %s, where the Service does not reach it. Leave it out; networkPolicy.from.control says who may reach the port, and without secrets.tokens nobody but the pod may." $control.host) -}}
{{- end -}}
{{- end }}

{{/* No secret in the settings: they are a ConfigMap, which more people and programs can read than a Secret. */}}
{{- define "gateway.noSecrets" -}}
{{- if (.Values.hub | default dict).headers -}}
{{- fail "\n\nhub.headers would stand in a ConfigMap, and may hold secrets: write lines `<name>: <value>` into an entry of the Secret that secrets.hub names, and set hub.headers_file to /etc/gateway/hub/<entry>." -}}
{{- end -}}
{{- if contains "@" ((.Values.hub | default dict).proxy | default "") -}}
{{- fail "\n\nhub.proxy holds a user or a password, and would stand in a ConfigMap: write the URL into an entry of the Secret that secrets.hub names, and set hub.proxy_file to /etc/gateway/hub/<entry>." -}}
{{- end -}}
{{- range $name, $url := dict "hub.url" ((.Values.hub | default dict).url) "tracing.endpoint" ((.Values.tracing | default dict).endpoint) -}}
{{- if contains "@" ($url | default "") -}}
{{- fail (printf "\n\n%s must not hold a user or a password: it would stand in a ConfigMap." $name) -}}
{{- end -}}
{{- end -}}
{{- range (.Values.broker | default dict).servers -}}
{{- if contains "@" . -}}
{{- fail "\n\nbroker.servers must not hold a user or a password, and would stand in a ConfigMap: set broker.sasl.username, and broker.sasl.password_file to an entry of the Secret that secrets.broker names." -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- $name := .name | default "" | toString | upper -}}{{/* the gateway reads names in any case */}}
{{- $value := .value | default "" | toString -}}
{{- $isSection := and (eq $name "GATEWAY_HUB") (contains "headers" (lower $value)) -}}
{{- $isUser := and (hasPrefix "GATEWAY_" $name) (contains "@" $value) -}}
{{- if and $value (or (hasPrefix "GATEWAY_HUB__HEADERS" $name) $isSection $isUser) -}}
{{- fail (printf "\n\nextraEnv gives %s its value in clear: take it from a Secret by valueFrom, or use hub.headers_file, hub.proxy_file or broker.sasl." .name) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* What a deployment keeps from its first start: the gateway refuses to start with another, and the pods would hang. */}}
{{- define "gateway.fixed" -}}
{{- $live := lookup "v1" "ConfigMap" .Release.Namespace (include "gateway.fullname" .) -}}
{{- with $live -}}
{{- $was := index (.data | default dict) "gateway.yaml" | default "{}" | fromYaml -}}
{{- $is := include "gateway.settings" $ | fromYaml -}}
{{- $words := "\n\n%s is %d in the values and %d in the installation that runs. It is fixed when a deployment first starts, since it decides where accounts' checkpoints and events go. Set it back; for another one install anew beside it, with another broker.prefix." -}}
{{- $before := int ($was.shards | default 16) -}}
{{- $now := int ($is.shards | default 16) -}}
{{- $same := eq ($was.broker | default dict).prefix ($is.broker | default dict).prefix -}}
{{- if and $same (ne $before $now) -}}
{{- fail (printf $words "shards" $now $before) -}}
{{- end -}}
{{- $before = int (($was.topics | default dict).partitions | default 8) -}}
{{- $now = int (($is.topics | default dict).partitions | default 8) -}}
{{- if and $same (eq (($is.broker | default dict).kind | default "") "kafka") (ne $before $now) -}}
{{- fail (printf $words "topics.partitions" $now $before) -}}
{{- end -}}
{{- end -}}
{{- end }}
