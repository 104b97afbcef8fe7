package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
)

// memory is what the replicas of our API server use together.
type memory struct {
	// live is the heap behind a garbage collection and all stacks, resident the programs' whole.
	live, resident float64
	// read counts the bytes that came from agents.
	read float64
}

// streams measures what streams cost whose clients read their first byte and then nothing: 5 for each of several users, more
// than one user may have.
func (b *bench) streams(ctx context.Context, capture, subresource string, count int) (err error) {
	before, err := b.settled(ctx)
	if err != nil {
		return err
	}
	const each = 5
	var user *bench
	for i := range count {
		if i%each == 0 {
			if user, err = b.as(fmt.Sprintf("bench-%d", i/each)); err != nil {
				return err
			}
		}
		stream, err := user.read(ctx, capture, subresource)
		if err != nil {
			return err
		}
		defer stream.Close()
		if _, err := io.ReadFull(stream, make([]byte, 1)); err != nil {
			return err
		}
	}
	after, err := b.settled(ctx)
	if err != nil {
		return err
	}
	const mebibyte = 1 << 20
	per := func(before, after float64) float64 { return (after - before) / mebibyte / float64(count) }
	fmt.Printf("memory of the API server for each of %d streams of %s whose clients do not read: %.2f MiB live, %.2f MiB resident (aim: 4; all replicas without any: %.0f and %.0f MiB)\n",
		count, subresource, per(before.live, after.live), per(before.resident, after.resident), before.live/mebibyte, before.resident/mebibyte)
	return nil
}

// as is the bench of another administrator.
func (b *bench) as(user string) (*bench, error) {
	config := rest.CopyConfig(b.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:masters"}}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	api, err := versioned.NewForConfigAndClient(config, client)
	return &bench{config: config, client: client, upgrade: b.upgrade, api: api, kube: b.kube}, err
}

// settled waits until nothing more comes from agents, since every buffer on the way is full, and measures then.
func (b *bench) settled(ctx context.Context) (memory, error) {
	const pause, patience = time.Second, 60
	last := memory{read: -1}
	for range patience {
		now, err := b.memory(ctx)
		if err != nil || now.read == last.read {
			return now, err
		}
		last = now
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return memory{}, ctx.Err()
		}
	}
	return memory{}, errors.New("the streams do not come to rest")
}

// memory asks each replica, at the address of its pod.
func (b *bench) memory(ctx context.Context) (sum memory, err error) {
	pods, err := b.kube.CoreV1().Pods(agentv1.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=apiserver"})
	if err != nil {
		return memory{}, err
	}
	config := rest.CopyConfig(b.config)
	// Its certificate is for the Service.
	config.TLSClientConfig.Insecure, config.TLSClientConfig.CAFile, config.TLSClientConfig.CAData = true, "", nil
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return memory{}, err
	}
	defer client.CloseIdleConnections()
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp != nil || pod.Status.PodIP == "" {
			continue
		}
		base := "https://" + pod.Status.PodIP + ":10250"
		if _, err := fetch(ctx, client, base+"/debug/pprof/heap?gc=1"); err != nil {
			return memory{}, err
		}
		values, err := fetch(ctx, client, base+"/metrics")
		if err != nil {
			return memory{}, err
		}
		sum.live += values["go_memstats_heap_alloc_bytes"] + values["go_memstats_stack_inuse_bytes"]
		sum.resident += values["process_resident_memory_bytes"]
		sum.read += values["networkobservability_apiserver_agent_capture_bytes_total"]
	}
	return sum, nil
}

// fetch reads a page and those of its lines that are metrics without labels.
func fetch(ctx context.Context, client *http.Client, url string) (map[string]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking %s: %s", url, answer.Status)
	}
	values := map[string]float64{}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if name, text, ok := strings.Cut(lines.Text(), " "); ok {
			if value, err := strconv.ParseFloat(text, 64); err == nil {
				values[name] = value
			}
		}
	}
	return values, lines.Err()
}
