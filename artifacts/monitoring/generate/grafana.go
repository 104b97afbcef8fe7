package main

import (
	"fmt"
	"strings"
)

// A board is a Grafana dashboard, with what is special to it; dashboard says what is common to all.
type board struct {
	uid, title, description string
	variables               []variable
	rows                    []row
}

// A row is a heading and the panels below it.
type row struct {
	title  string
	panels []panel
}

// A panel shows queries in one of Grafana's ways.
type panel struct {
	kind               string // timeseries, stat or table
	title, description string
	unit               string // Grafana's name for it
	width              int    // of 24 columns
	queries            []query
}

// A query is PromQL and how its series are called: Grafana's template of labels, as "{{node}}". For tables it is the
// heading of the column of values.
type query struct{ expr, legend string }

// A variable is what a reader chooses at the top of a board: values of a label that a series has.
type variable struct {
	name, label string
	of          string // the series, with a selector of the variables before it
	single      bool   // one value only
}

func series(title, unit, description string, queries ...query) panel {
	return panel{kind: "timeseries", title: title, unit: unit, description: description, width: 12, queries: queries}
}

func number(title, unit, description, expr string) panel {
	return panel{kind: "stat", title: title, unit: unit, description: description, width: 4, queries: []query{{expr: expr}}}
}

func table(title, unit, description, column, expr string) panel {
	return panel{kind: "table", title: title, unit: unit, description: description, width: 12, queries: []query{{expr: expr, legend: column}}}
}

// quantiles are the median, the 90th and the 99th percentile of a histogram, from its classic buckets. by are labels to
// keep, with a comma behind; the selector is that of the buckets.
func quantiles(metric, selector, by, legend string) []query {
	var queries []query
	for _, q := range []struct{ quantile, name string }{{"0.5", "median"}, {"0.9", "p90"}, {"0.99", "p99"}} {
		queries = append(queries, query{
			expr:   fmt.Sprintf("histogram_quantile(%s, sum by (%sle) (rate(%s_bucket{%s}[$__rate_interval])))", q.quantile, by, metric, selector),
			legend: strings.TrimSpace(legend + " " + q.name),
		})
	}
	return queries
}

// object is an object of JSON, which is written with its keys in order.
type object = map[string]any

var datasource = object{"type": "prometheus", "uid": "${datasource}"}

// dashboard is a board as Grafana 9.5 and later imports it.
func dashboard(b board, all []board) object {
	var panels []object
	id, y := 0, 0
	for _, row := range b.rows {
		id++
		panels = append(panels, object{
			"id": id, "type": "row", "title": row.title, "collapsed": false, "panels": []any{},
			"gridPos": object{"h": 1, "w": 24, "x": 0, "y": y},
		})
		y++
		x, height := 0, 0
		for _, p := range row.panels {
			if x+p.width > 24 {
				x, y = 0, y+height
			}
			id++
			height = map[string]int{"stat": 4}[p.kind]
			if height == 0 {
				height = 8
			}
			drawn := drawing(p)
			drawn["id"] = id
			drawn["gridPos"] = object{"h": height, "w": p.width, "x": x, "y": y}
			panels = append(panels, drawn)
			x += p.width
		}
		y += height
	}
	return object{
		"uid": b.uid, "title": "Network / " + b.title, "description": b.description,
		"tags": []string{"networkobservability"}, "schemaVersion": 38, "version": 1, "editable": true, "graphTooltip": 1,
		"time": object{"from": "now-1h", "to": "now"}, "refresh": "30s", "timezone": "browser",
		"templating":  object{"list": variables(b.variables)},
		"annotations": object{"list": []any{}},
		"links":       links(b, all),
		"panels":      panels,
	}
}

// links lead to all other boards, with the values of the variables and the time.
func links(b board, all []board) []object {
	var list []object
	for _, other := range all {
		if other.uid != b.uid {
			list = append(list, object{
				"type": "link", "title": other.title, "url": "/d/" + other.uid, "icon": "dashboard", "tooltip": other.description,
				"includeVars": true, "keepTime": true, "targetBlank": false, "asDropdown": false, "tags": []string{},
			})
		}
	}
	return list
}

func variables(list []variable) []object {
	all := []object{{
		"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1, "hide": 0,
		"includeAll": false, "multi": false, "options": []any{}, "regex": "",
	}}
	for _, v := range list {
		made := object{
			"name": v.name, "label": v.label, "type": "query", "datasource": datasource, "refresh": 2, "sort": 1, "hide": 0,
			"query":      object{"query": fmt.Sprintf("label_values(%s, %s)", v.of, v.name), "refId": "variable"},
			"definition": fmt.Sprintf("label_values(%s, %s)", v.of, v.name),
			"includeAll": !v.single, "multi": !v.single, "options": []any{}, "regex": "",
		}
		if !v.single {
			// Not the list of all values: series without the label, as of a single cluster, match too.
			made["allValue"] = ".*"
			made["current"] = object{"text": "All", "value": "$__all"}
		}
		all = append(all, made)
	}
	return all
}

func drawing(p panel) object {
	defaults := object{"unit": p.unit, "min": 0}
	options := object{}
	switch p.kind {
	case "timeseries":
		defaults["custom"] = object{"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false}
		options = object{
			"legend":  object{"showLegend": true, "displayMode": "table", "placement": "bottom", "calcs": []string{"lastNotNull", "max"}},
			"tooltip": object{"mode": "multi", "sort": "desc"},
		}
	case "stat":
		options = object{"colorMode": "none", "graphMode": "area", "reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}}
	case "table":
		options = object{"showHeader": true, "sortBy": []object{{"displayName": p.queries[0].legend, "desc": true}}}
	}
	drawn := object{
		"type": p.kind, "title": p.title, "description": p.description, "datasource": datasource,
		"fieldConfig": object{"defaults": defaults, "overrides": []any{}}, "options": options, "targets": targets(p),
	}
	if p.kind == "table" {
		drawn["transformations"] = []object{{
			"id": "organize", "options": object{"excludeByName": object{"Time": true}, "renameByName": object{"Value": p.queries[0].legend}},
		}}
	}
	return drawn
}

func targets(p panel) []object {
	var list []object
	for i, q := range p.queries {
		target := object{"refId": string(rune('A' + i)), "expr": q.expr, "datasource": datasource, "legendFormat": q.legend}
		if p.kind == "table" {
			target["instant"], target["range"], target["format"], target["legendFormat"] = true, false, "table", ""
		}
		list = append(list, target)
	}
	return list
}
