{{/* The image's whole name. */}}
{{- define "remora.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Labels of every object: (list . "remora-identity"). Part `remora` is what belongs to all parts. */}}
{{- define "remora.labels" -}}
{{- $root := index . 0 -}}{{- $part := index . 1 -}}
app.kubernetes.io/name: {{ $part }}
app.kubernetes.io/part-of: remora
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
remora.dev/part: {{ $part }}
{{- end }}

{{/* What never changes about a part's pods: a Deployment's selector is immutable. (list . "remora-identity") */}}
{{- define "remora.selector" -}}
remora.dev/part: {{ index . 1 }}
{{- end }}

{{/* The metadata of a part's pods. */}}
{{- define "remora.podMetadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "remora.labels" . | nindent 2 }}
  {{- with $root.Values.podLabels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with $root.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* How a part is deployed: everything of a Deployment's spec beside its pods. */}}
{{- define "remora.deployment" -}}
{{- $root := index . 0 -}}
replicas: {{ $root.Values.replicas }}
revisionHistoryLimit: 3
selector:
  matchLabels:
    {{- include "remora.selector" . | nindent 4 }}
# The new one is ready before the old one goes, with one replica too.
strategy:
  rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
{{- end }}

{{/* Everything of a part's pod spec beside its containers. */}}
{{- define "remora.pod" -}}
{{- $root := index . 0 -}}{{- $part := index . 1 -}}
serviceAccountName: {{ $part }}
# A Service named remora-identity would become REMORA_IDENTITY_* in the environment, where settings are read.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 2102
  runAsGroup: 2102
  fsGroup: 2102
  seccompProfile: {type: RuntimeDefault}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: {{ $root.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "remora.selector" (list $root $part) | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}

{{/* What a part's container needs beside its command and ports. (list . "remora-identity" <resources>) */}}
{{- define "remora.container" -}}
{{- $root := index . 0 -}}
image: {{ include "remora.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
livenessProbe:
  httpGet: {path: /live, port: admin}
# Often, as a part that is ready a second later is a cluster that is meshed a second later.
readinessProbe:
  httpGet: {path: /ready, port: admin}
  periodSeconds: 1
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources:
  {{- toYaml (index . 2) | nindent 2 }}
{{- end }}

{{/* Its own name, for the Lease. */}}
{{- define "remora.podName" -}}
- name: POD
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- end }}

{{/* A ServiceAccount. */}}
{{- define "remora.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ index . 1 }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "remora.labels" . | nindent 4 }}
{{- end }}

{{/* What binds a part to its Role and ClusterRole, both of its name. */}}
{{- define "remora.bindings" -}}
{{- $root := index . 0 -}}{{- $part := index . 1 -}}
{{- range $kind := list "ClusterRole" "Role" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $part }}
  {{- if eq $kind "Role" }}
  namespace: {{ $root.Release.Namespace }}
  {{- end }}
  labels:
    {{- include "remora.labels" (list $root $part) | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $part }}
subjects:
  - kind: ServiceAccount
    name: {{ $part }}
    namespace: {{ $root.Release.Namespace }}
{{- end }}
{{- end }}

{{/* Two replicas are not taken away at once. */}}
{{- define "remora.disruption" -}}
{{- $root := index . 0 -}}{{- $part := index . 1 -}}
{{- if gt (int $root.Values.replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $part }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "remora.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  # One that is not ready protects nobody, and must not hold up a node's drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "remora.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* What may come in: (list . "remora-identity" <port> <from>). `from` empty: anybody. */}}
{{- define "remora.networkPolicy" -}}
{{- $root := index . 0 -}}{{- $part := index . 1 -}}
{{- if $root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $part }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "remora.labels" (list $root $part) | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "remora.selector" (list $root $part) | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - ports: [{port: {{ index . 2 }}, protocol: TCP}]
      {{- with index . 3 }}
      from:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- with $root.Values.networkPolicy.scrapers }}
    - ports: [{port: admin, protocol: TCP}]
      from:
        {{- toYaml . | nindent 8 }}
    {{- end }}
{{- end }}
{{- end }}
