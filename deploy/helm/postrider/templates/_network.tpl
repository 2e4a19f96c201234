{{/* Where pods may go. The networks are those of crates/webhook/src/address_policy.rs; scripts/check-chart compares them. */}}

{{- define "postrider.toDns" -}}
- to: {{ toYaml .Values.networkPolicy.dns.to | nindent 4 }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

{{- define "postrider.toPostgres" -}}
- to: {{ toYaml .Values.networkPolicy.postgres.to | nindent 4 }}
  ports:
    - {protocol: TCP, port: {{ .Values.networkPolicy.postgres.port }}}
{{- end }}

{{- define "postrider.toRabbitmq" -}}
- to: {{ toYaml .Values.networkPolicy.rabbitmq.to | nindent 4 }}
  ports:
    - {protocol: TCP, port: {{ .Values.networkPolicy.rabbitmq.port }}}
{{- end }}

{{- define "postrider.toCollector" -}}
{{- with .Values.networkPolicy.collector }}
{{- if .to }}
- to: {{ toYaml .to | nindent 4 }}
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Public unicast addresses, and egress.allow. Any port: a subscription's URL may name any. */}}
{{- define "postrider.toReceivers" -}}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except:
          - 0.0.0.0/8
          - 10.0.0.0/8
          - 100.64.0.0/10
          - 127.0.0.0/8
          - 168.63.129.16/32
          - 169.254.0.0/16
          - 172.16.0.0/12
          - 192.0.0.0/24
          - 192.0.2.0/24
          - 192.31.196.0/24
          - 192.52.193.0/24
          - 192.88.99.0/24
          - 192.168.0.0/16
          - 198.18.0.0/15
          - 198.51.100.0/24
          - 203.0.113.0/24
          - 224.0.0.0/3
    - ipBlock:
        cidr: 2000::/3
        except:
          - 2001::/23
          - 2001:db8::/32
          - 2002::/16
          - 3fff::/20
    {{- range dig "egress" "allow" list .Values.config }}
    - ipBlock: {cidr: {{ if contains "/" . }}{{ . | quote }}{{ else if contains ":" . }}"{{ . }}/128"{{ else }}"{{ . }}/32"{{ end }}}
    {{- end }}
{{- end }}
