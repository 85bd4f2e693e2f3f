{{/* Names, labels and the security contexts of the "restricted" Pod Security Standard. */}}

{{- define "heatward.name" -}}
{{- if contains "heatward" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-heatward" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "heatward.selector" -}}
app.kubernetes.io/name: heatward
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "heatward.labels" -}}
{{ include "heatward.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "heatward.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "heatward.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* serve.toml. Tables are not among the settings, so null is all that TOML cannot say. */}}
{{- define "heatward.settings" -}}
{{- $settings := dict }}
{{- range $name, $value := .Values.settings }}{{ if not (kindIs "invalid" $value) }}{{ $_ := set $settings $name $value }}{{ end }}{{ end }}
{{- with .Values.bundle.path }}{{ $_ := set $settings "bundle" . }}{{ end }}
{{- if .Values.bundle.keys }}{{ $_ := set $settings "bundle_keys" (list "/etc/heatward/keys/keys.pem") }}{{ end }}
{{- if .Values.tls.secret }}
{{- $_ := set $settings "tls_certificate" "/etc/heatward/tls/tls.crt" }}
{{- $_ := set $settings "tls_key" "/etc/heatward/tls/tls.key" }}
{{- if .Values.tls.clients }}{{ $_ := set $settings "tls_client_ca" "/etc/heatward/tls/ca.crt" }}{{ end }}
{{- end }}
{{- if .Values.tokens.secret }}{{ $_ := set $settings "token_file" "/etc/heatward/tokens/tokens" }}{{ end }}
{{- toToml $settings }}
{{- end }}

{{/* How heatward's client reaches a server with TLS. */}}
{{- define "heatward.tlsOptions" -}}
--tls-roots=/etc/heatward/tls/ca.crt, --tls-server-name=
{{- .Values.tls.serverName | default (printf "%s.%s.svc" (include "heatward.name" .) .Release.Namespace) }}
{{- if .Values.tls.clients }}, --tls-certificate=/etc/heatward/tls/tls.crt, --tls-key=/etc/heatward/tls/tls.key{{ end }}
{{- end }}

{{/* One probe's question. The kubelet's own gRPC probe speaks no TLS; heatward's client does. */}}
{{- define "heatward.probe" -}}
{{- if .Values.tls.secret -}}
exec:
  command: [heatward, health, --timeout=4, {{ include "heatward.tlsOptions" . }}]
timeoutSeconds: 5
{{- else -}}
grpc: {port: 50051}
timeoutSeconds: 2
{{- end }}
{{- end }}

{{/* Images that wait, on average over two minutes: 0 without traffic, where the quotient is no number. */}}
{{- define "heatward.queueQuery" -}}
{{- $pods := printf `namespace="%s",service="%s"` .Release.Namespace (include "heatward.name" .) -}}
sum(rate(heatward_queue_duration_seconds_sum{ {{- $pods -}} }[2m])) / sum(rate(heatward_queue_duration_seconds_count{ {{- $pods -}} }[2m])) >= 0 or vector(0)
{{- end }}
