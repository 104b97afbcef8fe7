package main

import (
	"strings"
	"testing"
)

func TestConfiguration(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "",
		"disabled: [dns]":                     "",
		"{\"traffic\": {\"hook\": \"tcx\"}}":  "",
		"disabled: [nothing]":                 `disabled[0]: "nothing" is none of traffic, `,
		"withoutHooks: [tcp, kfree_skb]":      "",
		"withoutHooks: [tcp, kfree_skp]":      `withoutHooks[1]: "kfree_skp" is none of kfree_skb, `,
		"traffic: {hook: xdp}":                `traffic.hook: "xdp" is none of auto, tcx and clsact`,
		"traffic: {hok: tcx}":                 `unknown field "traffic.hok"`,
		"Traffic: {hook: tcx}":                `unknown field "Traffic"`,
		"disabled: 3":                         "disabled",
		"flows: {history: 1000, maxAge: 24h}": "",
		"flows: {history: 999}":               "flows.history: 999 is not between 1000 and 200000",
		"flows: {history: 200001}":            "flows.history: 200001 is not between",
		"flows: {history: lots}":              "flows.history",
		"flows: {maxAge: 59s}":                "flows.maxAge: 59s is not between 1m0s and 24h0m0s",
		"flows: {maxAge: 24h1s}":              "flows.maxAge: 24h0m1s is not between",
		"flows: {maxAge: 30}":                 "flows.maxAge",
		"flows: {maxage: 30m}":                `unknown field "flows.maxage"`,
		"dns: {names: 0}":                     "",
		"dns: {names: 100}":                   "",
		"dns: {names: -1}":                    "dns.names: -1 is not between 0 and 100",
		"dns: {names: 101}":                   "dns.names: 101 is not between",
		"dns: {names: many}":                  "dns.names",
		"dns: {name: 20}":                     `unknown field "dns.name"`,
		"disabled: [dns]\ndisabled: []":       "disabled",
		"\t":                                  "yaml",
		"captures: {enabled: false}":          "",
		"captures: {quota: 10Gi, minFree: 5Gi, maxRunning: 3, ringBytes: 4Mi, ringMemory: 64Mi}": "",
		"captures: {minFree: 0}":       "",
		"captures: {minFree: -1}":      "captures.minFree: -1 is not between 0 and 16Ti",
		"captures: {quota: 1Mi}":       "captures.quota: 1Mi is not between 16Mi and 16Ti",
		"captures: {quota: lots}":      "captures.quota",
		"captures: {ringBytes: 1Ki}":   "captures.ringBytes: 1Ki is not between",
		"captures: {ringMemory: 17Gi}": "captures.ringMemory: 17Gi is not between",
		"captures: {maxRunning: 0}":    "captures.maxRunning: 0 is not between 1 and 1000",
		"captures: {maxrunning: 3}":    `unknown field "captures.maxrunning"`,
		"capture: {}":                  `unknown field "capture"`,
	} {
		_, err := parseConfig([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
