{{- define "gateway.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "gateway.fullname" -}}
{{- $name := include "gateway.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "gateway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "gateway.instance" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* All pods of this installation, those of its test among them. */}}
{{- define "gateway.instance" -}}
app.kubernetes.io/name: {{ include "gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The replicas alone. */}}
{{- define "gateway.selector" -}}
{{ include "gateway.instance" . }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "gateway.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "gateway.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end }}

{{- define "gateway.image" -}}
{{- with .Values.image -}}
{{- .repository -}}
{{- if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "gateway.accountsSecrets" -}}
{{- .Values.secrets.accounts | default (list (printf "%s-accounts" (include "gateway.fullname" .))) | toJson -}}
{{- end }}

{{/* The settings as the gateway reads them: the values' own sections, and where this chart mounts keys and tokens. */}}
{{- define "gateway.settings" -}}
{{- $settings := dict "accounts" (dict "directory" "/etc/gateway/accounts") -}}
{{- if .Values.secrets.tokens -}}
{{- $_ := set $settings "control" (dict "tokens_file" "/etc/gateway/tokens/tokens") -}}
{{- end -}}
{{- range $name := list "hub" "accounts" "session" "broker" "topics" "messages" "control" "monitoring" "metrics" "replays" "tracing" "log" -}}
{{- with index $.Values $name -}}
{{- $_ := set $settings $name (mergeOverwrite (deepCopy .) (index $settings $name | default dict)) -}}
{{- end -}}
{{- end -}}
{{- range $section := list "broker" "control" "monitoring" -}}
{{- with index $settings $section -}}
{{- range $name := list "tls" "sasl" -}}
{{- if and (hasKey (index $settings $section) $name) (not (index $settings $section $name)) -}}
{{- $_ := unset (index $settings $section) $name -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (hasKey $settings $section) (not (index $settings $section)) -}}
{{- $_ := unset $settings $section -}}
{{- end -}}
{{- end -}}
{{- range $name := list "shards" "memory_bytes" -}}
{{- if hasKey $.Values $name -}}
{{- $_ := set $settings $name (int64 (index $.Values $name)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end }}

{{- define "gateway.ports" -}}
control: {{ (.Values.control | default dict).port | default 8080 }}
monitoring: {{ (.Values.monitoring | default dict).port | default 9090 }}
{{- end }}

{{/* A probe: `path`, and the `root`. A kubelet has no certificate to show, so where one is wanted the pod asks itself. */}}
{{- define "gateway.probe" -}}
{{- $monitoring := .root.Values.monitoring | default dict -}}
{{- $tls := $monitoring.tls | default dict -}}
{{- if $tls.client_ca_file -}}
{{- $host := $monitoring.host | default "0.0.0.0" -}}
{{- if has $host (list "0.0.0.0" "::") }}{{ $host = "127.0.0.1" }}{{ end -}}
exec:
  command:
    - gateway
    - health
    {{- if eq .path "/readyz" }}
    - --ready
    {{- end }}
    - --url=https://{{ ternary (printf "[%s]" $host) $host (contains ":" $host) }}:{{ (include "gateway.ports" .root | fromYaml).monitoring }}
    - --cert-file={{ $tls.cert_file }}
    {{- with $tls.key_file }}
    - --key-file={{ . }}
    {{- end }}
{{- else -}}
httpGet:
  path: {{ .path }}
  port: monitoring
  {{- if $tls.cert_file }}
  scheme: HTTPS
  {{- end }}
{{- end -}}
{{- end }}

{{/* What every pod here has: no root, no privilege, no token of Kubernetes, files from Secrets. */}}
{{- define "gateway.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
serviceAccountName: {{ include "gateway.serviceAccount" . }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532 # the files of Secrets are readable by the group alone
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: settings
    configMap:
      name: {{ include "gateway.fullname" . }}
  # One volume of all Secrets, and never a subPath: what is written into a Secret must reach the running gateway.
  - name: accounts
    projected:
      defaultMode: 0440
      sources:
        {{- range include "gateway.accountsSecrets" . | fromJsonArray }}
        - secret:
            name: {{ . }}
        {{- end }}
  {{- range $name := list "tokens" "control" "monitoring" "hub" "broker" "tracing" }}
  {{- with index $.Values.secrets $name }}
  - name: {{ $name }}
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "gateway.container" -}}
image: {{ include "gateway.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - name: settings
    mountPath: /etc/gateway/settings
    readOnly: true
  - name: accounts
    mountPath: /etc/gateway/accounts
    readOnly: true
  {{- range $name := list "tokens" "control" "monitoring" "hub" "broker" "tracing" }}
  {{- if index $.Values.secrets $name }}
  - name: {{ $name }}
    mountPath: /etc/gateway/{{ $name }}
    readOnly: true
  {{- end }}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
