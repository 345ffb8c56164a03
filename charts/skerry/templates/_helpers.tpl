{{/* Reference of one of our images: dict "root" $ "name" "operator". */}}
{{- define "skerry.image" -}}
{{- $tag := .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- printf "%s/skerry-%s%s%s" .root.Values.image.registry .name (ternary "@" ":" (hasPrefix "sha256:" $tag)) $tag -}}
{{- end }}

{{/* Labels of everything: dict "root" $ "name" "operator". */}}
{{- define "skerry.labels" -}}
{{ include "skerry.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What selects the pods of one part; never changes. */}}
{{- define "skerry.selector" -}}
app.kubernetes.io/name: skerry
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{/* metadata's name and labels of an object without namespace. */}}
{{- define "skerry.meta" -}}
name: skerry-{{ .object | default .name }}
labels: {{- include "skerry.labels" . | nindent 2 }}
{{- end }}

{{/* The Pod Security Standard "restricted", for whoever needs nothing of the node. */}}
{{- define "skerry.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "skerry.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The agents' user name. */}}
{{- define "skerry.agentUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:skerry-agent
{{- end }}

{{/* What only a deployment's place on nodes says: dict "root" $ "name" "operator" "part" .Values.operator. */}}
{{- define "skerry.placement" -}}
{{- with .part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
nodeSelector: {{- toYaml (merge dict .part.nodeSelector (dict "kubernetes.io/os" "linux")) | nindent 2 }}
{{- with .part.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .part.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "skerry.selector" $ | nindent 6 }}
{{- end }}
{{- end }}
