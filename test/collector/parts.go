package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensionauth"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

type linesConfig struct {
	File string `mapstructure:"file"`
}

// lines writes requests to a file. A line is on disk before its request is answered, so that a kill loses none that was.
type lines struct {
	component.StartFunc
	component.ShutdownFunc
	file string
}

// writing is of the one file: the metrics' and the logs' exporters write to it.
var writing sync.Mutex

func newLinesFactory() exporter.Factory {
	make := func(c component.Config) *lines { return &lines{file: c.(*linesConfig).File} }
	return exporter.NewFactory(component.MustNewType("lines"), func() component.Config { return &linesConfig{} },
		exporter.WithMetrics(func(_ context.Context, _ exporter.Settings, c component.Config) (exporter.Metrics, error) {
			return make(c), nil
		}, component.StabilityLevelDevelopment),
		exporter.WithLogs(func(_ context.Context, _ exporter.Settings, c component.Config) (exporter.Logs, error) {
			return make(c), nil
		}, component.StabilityLevelDevelopment))
}

func (*lines) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (l *lines) ConsumeLogs(_ context.Context, received plog.Logs) error {
	encoded, err := (&plog.JSONMarshaler{}).MarshalLogs(received)
	if err != nil {
		return err
	}
	return l.write(encoded)
}

func (l *lines) ConsumeMetrics(_ context.Context, received pmetric.Metrics) error {
	encoded, err := (&pmetric.JSONMarshaler{}).MarshalMetrics(received)
	if err != nil {
		return err
	}
	return l.write(encoded)
}

func (l *lines) write(line []byte) (err error) {
	writing.Lock()
	defer writing.Unlock()
	f, err := os.OpenFile(l.file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.Write(append(line, '\n'))
	return err
}

type gateConfig struct {
	Token string `mapstructure:"token"`
}

// gate lets in who has the token, and says when the collector is ready.
type gate struct {
	component.StartFunc
	component.ShutdownFunc
	token string
}

var _ extensionauth.Server = (*gate)(nil)

func newGateFactory() extension.Factory {
	return extension.NewFactory(component.MustNewType("gate"), func() component.Config { return &gateConfig{} },
		func(_ context.Context, _ extension.Settings, c component.Config) (extension.Extension, error) {
			return &gate{token: c.(*gateConfig).Token}, nil
		}, component.StabilityLevelDevelopment)
}

// Authenticate implements extensionauth.Server.
func (g *gate) Authenticate(ctx context.Context, headers map[string][]string) (context.Context, error) {
	if g.token == "" {
		return ctx, nil
	}
	for name, values := range headers {
		if !strings.EqualFold(name, "authorization") || len(values) != 1 {
			continue
		}
		if subtle.ConstantTimeCompare([]byte(values[0]), []byte("Bearer "+g.token)) == 1 {
			return ctx, nil
		}
		return ctx, fmt.Errorf("%q is not the right token", values[0]) // an echo that must not go further
	}
	return ctx, errors.New("no token was given")
}

// Ready is called when all pipelines have started (extensioncapabilities.PipelineWatcher).
func (*gate) Ready() error {
	_, err := fmt.Println("ready")
	return err
}

// NotReady is called before they are stopped.
func (*gate) NotReady() error { return nil }
