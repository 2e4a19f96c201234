{{/* Names, labels, and what the pods of all parts have in common. */}}

{{- define "postrider.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels by which pods are selected: they may never change. */}}
{{- define "postrider.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "postrider.labels" -}}
{{ include "postrider.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "postrider.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* shutdown.grace in seconds; the schema lets pass only 25s and 1m. */}}
{{- define "postrider.graceSeconds" -}}
{{- $grace := dig "shutdown" "grace" "25s" .Values.config -}}
{{- if hasSuffix "m" $grace }}{{ mul 60 (trimSuffix "m" $grace | int) }}{{ else }}{{ trimSuffix "s" $grace }}{{ end }}
{{- end }}

{{/* The secrets of a part, as JSON: the variable, and the Secret's name and key. Takes {root, part}. */}}
{{- define "postrider.secrets" -}}
{{- $s := .root.Values.secrets -}}
{{- $wanted := dict "postgres-url" (dict "variable" "POSTRIDER__POSTGRES__URL_FILE" "from" $s.postgresUrl) -}}
{{- if eq .part "migrate" -}}
{{- with $s.migratePostgresUrl }}{{ $_ := set (index $wanted "postgres-url") "from" . }}{{ end -}}
{{- else -}}
{{- $_ := set $wanted "amqp-url" (dict "variable" "POSTRIDER__AMQP__URL_FILE" "from" $s.amqpUrl) -}}
{{- $_ := set $wanted "secrets-keys" (dict "variable" "POSTRIDER__SECRETS__KEYS_FILE" "from" $s.keys) -}}
{{- end -}}
{{- if eq .part "api" -}}
{{- with $s.apiPostgresUrl }}{{ $_ := set (index $wanted "postgres-url") "from" . }}{{ end -}}
{{- with $s.apiAmqpUrl }}{{ $_ := set (index $wanted "amqp-url") "from" . }}{{ end -}}
{{- if $s.tokenKeys.name -}}
{{- $_ := set $wanted "token-keys" (dict "variable" "POSTRIDER__AUTH__TOKEN_KEYS_FILE" "from" $s.tokenKeys) -}}
{{- else if not .root.Values.files.jwks -}}
{{- fail "the API needs keys that tokens are verified with: set secrets.tokenKeys.name or files.jwks" -}}
{{- end -}}
{{- end -}}
{{- toJson $wanted -}}
{{- end }}

{{/* The public files of a part, likewise. */}}
{{- define "postrider.files" -}}
{{- $f := .root.Values.files -}}
{{- $wanted := dict -}}
{{- with $f.postgresCa }}{{ $_ := set $wanted "postgres-ca.pem" (dict "variable" "POSTRIDER__POSTGRES__CA_FILE" "from" .) }}{{ end -}}
{{- if ne .part "migrate" -}}
{{- with $f.amqpCa }}{{ $_ := set $wanted "amqp-ca.pem" (dict "variable" "POSTRIDER__AMQP__CA_FILE" "from" .) }}{{ end -}}
{{- end -}}
{{- if eq .part "worker" -}}
{{- with $f.egressCa }}{{ $_ := set $wanted "egress-ca.pem" (dict "variable" "POSTRIDER__EGRESS__CA_FILE" "from" .) }}{{ end -}}
{{- end -}}
{{- if eq .part "api" -}}
{{- with $f.jwks }}{{ $_ := set $wanted "jwks.json" (dict "variable" "POSTRIDER__AUTH__JWKS_FILE" "from" .) }}{{ end -}}
{{- end -}}
{{- toJson $wanted -}}
{{- end }}

{{/* A pod's spec without its replicas' concerns. Takes {root, part, restartPolicy, termination, ports, probes, lifecycle}. */}}
{{- define "postrider.pod" -}}
{{- $secrets := include "postrider.secrets" . | fromJson -}}
{{- $files := include "postrider.files" . | fromJson -}}
{{- with .root.Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  # So that the files below can be read.
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
containers:
  - name: {{ .part }}
    image: {{ include "postrider.image" .root | quote }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    args: [{{ .part }}]
    env:
      {{- range $section, $keys := .root.Values.config }}
      {{- range $key, $value := $keys }}
      - name: POSTRIDER__{{ upper $section }}__{{ upper $key }}
        value: {{ if kindIs "string" $value }}{{ toJson $value }}{{ else }}{{ toJson $value | toJson }}{{ end }}
      {{- end }}
      {{- end }}
      {{- if ne .part "migrate" }}
      - name: POSTRIDER__ADMIN__LISTEN
        value: {{ printf "%s:9464" .root.Values.listenAddress | quote }}
      {{- end }}
      {{- if eq .part "api" }}
      - name: POSTRIDER__API__LISTEN
        value: {{ printf "%s:%v" .root.Values.listenAddress .root.Values.api.port | quote }}
      {{- end }}
      {{- range $file, $secret := $secrets }}
      - name: {{ $secret.variable }}
        value: /run/postrider/secrets/{{ $file }}
      {{- end }}
      {{- range $name, $file := $files }}
      - name: {{ $file.variable }}
        value: /run/postrider/files/{{ $name }}
      {{- end }}
    {{- with .ports }}
    ports: {{ toYaml . | nindent 6 }}
    {{- end }}
    {{- if .probes }}
    # Depends on neither RabbitMQ nor Postgres: their outage restarts nobody.
    livenessProbe:
      httpGet: {path: /livez, port: admin}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe:
      httpGet: {path: /readyz, port: admin}
      periodSeconds: 5
      timeoutSeconds: 5
    {{- end }}
    {{- with .lifecycle }}
    lifecycle: {{ toYaml . | nindent 6 }}
    {{- end }}
    resources: {{ toYaml (index .root.Values .part).resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts:
      - {name: secrets, mountPath: /run/postrider/secrets, readOnly: true}
      {{- if $files }}
      - {name: files, mountPath: /run/postrider/files, readOnly: true}
      {{- end }}
volumes:
  - name: secrets
    projected:
      defaultMode: 0440
      sources:
        {{- range $file, $secret := $secrets }}
        - secret:
            name: {{ $secret.from.name }}
            items: [{key: {{ $secret.from.key | quote }}, path: {{ $file }}}]
        {{- end }}
  {{- if $files }}
  - name: files
    projected:
      defaultMode: 0440
      sources:
        {{- range $name, $file := $files }}
        - {{ if $file.from.secret }}secret{{ else }}configMap{{ end }}:
            name: {{ $file.from.secret | default $file.from.configMap }}
            items: [{key: {{ $file.from.key | quote }}, path: {{ $name }}}]
        {{- end }}
  {{- end }}
{{- end }}

{{/* A part's pods stand on different nodes where that is possible. Takes {root, part}. */}}
{{- define "postrider.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "postrider.selector" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .part }}
{{- end }}

{{/* One pod at a time may be taken for a node's maintenance, and one that isn't ready always. Takes {root, part}. */}}
{{- define "postrider.disruption" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "postrider.name" .root }}-{{ .part }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "postrider.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .part }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "postrider.selector" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .part }}
{{- end }}
