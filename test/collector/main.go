package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct{ grpc, http, cert, key, clientCA, tokenFile, output string }

func run(ctx context.Context, args []string) error {
	var o options
	flags := flag.NewFlagSet("collector", flag.ContinueOnError)
	flags.StringVar(&o.grpc, "grpc", "127.0.0.1:4317", "address to serve OTLP/gRPC at")
	flags.StringVar(&o.http, "http", "127.0.0.1:4318", "address to serve OTLP/HTTP at")
	flags.StringVar(&o.cert, "cert", "", "file of the certificate (PEM); without one there is no TLS")
	flags.StringVar(&o.key, "key", "", "file of the certificate's key (PEM)")
	flags.StringVar(&o.clientCA, "client-ca", "", "file of the authorities (PEM) of one of which clients need a certificate; without one they need none")
	flags.StringVar(&o.tokenFile, "token-file", "", `file of the token that requests have to have as "authorization: Bearer TOKEN"; without one nothing is checked`)
	flags.StringVar(&o.output, "output", "", "file to append what arrived to, a line of OTLP/JSON a request")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.output == "" {
		return errors.New("--output is needed")
	}
	configuration, err := o.configuration()
	if err != nil {
		return err
	}
	collector, err := otelcol.NewCollector(otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "collector", Version: "test"}, Factories: factories, DisableGracefulShutdown: true,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			URIs: []string{"yaml:" + configuration}, ProviderFactories: []confmap.ProviderFactory{yamlprovider.NewFactory()}}},
	})
	if err != nil {
		return fmt.Errorf("making the collector: %w", err)
	}
	return collector.Run(ctx)
}

// object is JSON, which is YAML too.
type object map[string]any

func (o options) configuration() (string, error) {
	checks := object{}
	if o.tokenFile != "" {
		token, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return "", fmt.Errorf("reading the token: %w", err)
		}
		checks["token"] = strings.TrimSpace(string(token))
	}
	served := func(address string) object {
		p := object{"endpoint": address, "auth": object{"authenticator": "gate"}}
		if o.cert != "" {
			checked := object{"cert_file": o.cert, "key_file": o.key}
			if o.clientCA != "" {
				checked["client_ca_file"] = o.clientCA
			}
			p["tls"] = checked
		}
		return p
	}
	pipeline := object{"receivers": []string{"otlp"}, "exporters": []string{"lines"}}
	made, err := json.Marshal(object{
		"extensions": object{"gate": checks},
		"receivers":  object{"otlp": object{"protocols": object{"grpc": served(o.grpc), "http": served(o.http)}}},
		"exporters":  object{"lines": object{"file": o.output}},
		"service": object{
			"extensions": []string{"gate"},
			"pipelines":  object{"metrics": pipeline, "logs": pipeline},
		},
	})
	return string(made), err
}

func factories() (otelcol.Factories, error) {
	// Of itself it says nothing.
	f := otelcol.Factories{Telemetry: telemetry.NewFactory(func() component.Config { return &struct{}{} })}
	var err error
	if f.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory()); err != nil {
		return f, err
	}
	if f.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](newLinesFactory()); err != nil {
		return f, err
	}
	f.Extensions, err = otelcol.MakeFactoryMap[extension.Factory](newGateFactory())
	return f, err
}
