{{/* What stands in every template. Names of objects do not depend on the release: the programs know them (apis/agent/v1alpha1/doc.go). */}}

{{- define "networkobservability.labels" -}}
app.kubernetes.io/part-of: networkobservability
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end }}

{{/* [root, values of a program] */}}
{{- define "networkobservability.image" -}}
{{- $image := (index . 1).image -}}
{{- $name := $image.repository -}}
{{- with $image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if $image.digest }}{{ printf "%s@%s" $name $image.digest | quote }}{{ else }}{{ printf "%s:%s" $name (default (index . 0).Chart.AppVersion $image.tag) | quote }}{{ end -}}
{{- end }}

{{/* The API server's file, in which the volumes of captureVolumes are allowed. */}}
{{- define "networkobservability.apiserver.config" -}}
{{- $config := deepCopy .Values.apiserver.config -}}
{{- with .Values.captureVolumes -}}
{{- $captures := default dict $config.captures -}}
{{- $_ := set $captures "volumes" (concat (default list $captures.volumes) (keys . | sortAlpha) | uniq) -}}
{{- $_ := set $config "captures" $captures -}}
{{- end -}}
{{- toYaml $config -}}
{{- end }}

{{/* [root, labels that the user gives]. Ours win. */}}
{{- define "networkobservability.labelsWith" -}}
{{- merge (include "networkobservability.labels" (index . 0) | fromYaml) (index . 1) | toYaml -}}
{{- end }}
