package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	restclient "k8s.io/client-go/rest"

	"github.com/networkobservability/networkobservability/apis/generated/clientset/versioned"
)

// TestStreamsOfTheirOwn: a server that offers HTTP/2 gets streams over HTTP/1.1, and everything else as client-go likes it.
func TestStreamsOfTheirOwn(t *testing.T) {
	protocols := make(chan string, 2)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocols <- r.Proto
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	config := &restclient.Config{Host: server.URL, TLSClientConfig: restclient.TLSClientConfig{Insecure: true}}
	client, err := versioned.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	c := &captures{config: config, rest: client.NetworkobservabilityV1alpha1().RESTClient()}
	response, err := c.open(t.Context(), c.rest.Get().AbsPath("/stream"), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := response.Body.Close(); err != nil {
		t.Error(err)
	}
	if got := <-protocols; got != "HTTP/1.1" {
		t.Errorf("a stream came over %s", got)
	}
	if err := c.rest.Get().AbsPath("/object").Do(t.Context()).Error(); err != nil {
		t.Error(err)
	}
	if got := <-protocols; got != "HTTP/2.0" {
		t.Errorf("an object came over %s", got)
	}
}

// TestNoUpgrade: where connections are not passed on, a file is asked for as any other answer.
func TestNoUpgrade(t *testing.T) {
	var asked []string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrade := r.Header.Get("Upgrade")
		asked = append(asked, upgrade)
		if upgrade != "" {
			// As kube-apiserver answers when the server behind it has answered 200.
			http.Error(w, "invalid upgrade response: status code 200", http.StatusServiceUnavailable)
			return
		}
		w.Write(content)
	}))
	t.Cleanup(server.Close)
	config := &restclient.Config{Host: server.URL, TLSClientConfig: restclient.TLSClientConfig{Insecure: true}}
	client, err := versioned.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	d := &download{captures: &captures{kind: kinds[0], namespace: "shop", config: config, rest: client.NetworkobservabilityV1alpha1().RESTClient()}, name: "web", out: &got}
	if err := d.run(t.Context()); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("%d of %d bytes: %v", got.Len(), len(content), err)
	}
	if len(asked) != 2 || asked[0] == "" || asked[1] != "" {
		t.Errorf("asked for %q", asked)
	}
}
