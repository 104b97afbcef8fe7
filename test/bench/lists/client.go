package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	restclient "k8s.io/client-go/rest"

	"github.com/networkobservability/networkobservability/apis/networkobservability/v1alpha1"
)

const (
	// chunk is how many objects kubectl asks for at a time.
	chunk = "500"
	// asTable is what kubectl get accepts.
	asTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
)

// A kind is a resource whose lists are measured.
type kind struct{ prefix, resource string }

var (
	plain = kind{"/api/v1", "pods"}
	ours  = kind{"/apis/" + v1alpha1.GroupName + "/" + v1alpha1.SchemeGroupVersion.Version, "podnetworkstats"}
)

// path is that of a list in one namespace, or in all when it is empty.
func (k kind) path(namespace string) string {
	if namespace == "" {
		return k.prefix + "/" + k.resource
	}
	return k.prefix + "/namespaces/" + namespace + "/" + k.resource
}

// An answer is a whole list.
type answer struct {
	// took is the time from each request to the last byte of its answer, without what the client does in between.
	took time.Duration
	rows int
	// body is the size of the answers, wire what was sent of it: answers are compressed when they are large.
	body, wire int64
	// partial counts chunks in which counters of some node were missing.
	partial int
}

// A lister lists as kubectl does: in chunks, as tables, over one connection.
type lister struct {
	client *http.Client
	host   string
}

func newLister(config *restclient.Config) (*lister, error) {
	// The content type and the throttle of config are above the transport.
	client, err := restclient.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return &lister{client: client, host: config.Host}, nil
}

func (l *lister) list(ctx context.Context, path string) (answer, error) {
	var sum answer
	query := url.Values{"limit": {chunk}}
	for {
		page, next, err := l.page(ctx, path, query)
		if err != nil {
			return answer{}, fmt.Errorf("listing %s: %w", path, err)
		}
		sum.took += page.took
		sum.rows += page.rows
		sum.body += page.body
		sum.wire += page.wire
		sum.partial += page.partial
		if next == "" {
			return sum, nil
		}
		query.Set("continue", next)
	}
}

func (l *lister) page(ctx context.Context, path string, query url.Values) (page answer, next string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.host+path+"?"+query.Encode(), nil)
	if err != nil {
		return answer{}, "", err
	}
	request.Header.Set("Accept", asTable)
	request.Header.Set("Accept-Encoding", "gzip") // Set by hand, the client leaves the answer as it is.
	began := time.Now()
	response, err := l.client.Do(request)
	if err != nil {
		return answer{}, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, "", err
	}
	page = answer{took: time.Since(began), wire: int64(len(text))}
	if response.StatusCode != http.StatusOK {
		return answer{}, "", fmt.Errorf("%s: %s", response.Status, text[:min(len(text), 500)])
	}
	if len(response.Header.Values("Warning")) > 0 {
		page.partial = 1
	}
	if text, err = unpack(response, text); err != nil {
		return answer{}, "", err
	}
	page.body = int64(len(text))
	page.rows, next, err = readTable(text)
	return page, next, err
}

func unpack(response *http.Response, text []byte) ([]byte, error) {
	if response.Header.Get("Content-Encoding") != "gzip" {
		return text, nil
	}
	reader, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("unpacking the answer: %w", err)
	}
	return io.ReadAll(reader)
}

func readTable(text []byte) (rows int, next string, err error) {
	var table struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Continue string `json:"continue"`
		} `json:"metadata"`
		Rows []struct{} `json:"rows"`
	}
	if err := json.Unmarshal(text, &table); err != nil {
		return 0, "", fmt.Errorf("reading the answer: %w", err)
	}
	if !strings.EqualFold(table.Kind, "Table") {
		return 0, "", fmt.Errorf("the answer is a %s, not a Table", table.Kind)
	}
	return len(table.Rows), table.Metadata.Continue, nil
}
