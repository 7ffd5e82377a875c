{{/* What a schema cannot say, in words: what is wrong, and what would be right. */}}
{{- define "gateway.checks" -}}
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
{{- end -}}
{{- end -}}
{{- range regexFindAll "/etc/gateway/(tokens|hub|broker|tracing)/" (include "gateway.settings" .) -1 | uniq -}}
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
