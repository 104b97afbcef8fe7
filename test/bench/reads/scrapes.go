package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
	"github.com/networkobservability/networkobservability/test/bench/paired"
	"github.com/networkobservability/networkobservability/test/bench/sandbox"
)

const metricsAddress = "127.0.0.1:10263"

// reviews are the answers of a Kubernetes API at which everybody may do everything.
var reviews = map[string]string{
	"/apis/authentication.k8s.io/v1/tokenreviews":        `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","status":{"authenticated":true,"user":{"username":"scraper"}}}`,
	"/apis/authorization.k8s.io/v1/subjectaccessreviews": `{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","status":{"allowed":true}}`,
}

// serveReviews answers who may scrape until the program ends, which is all that an agent with a certificate asks a cluster.
// It serves with the agent's certificate and returns the server for a kubeconfig.
func serveReviews(certificate string) (server string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, known := reviews[r.URL.Path]
		if !known {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, answer)
	})
	go func() { _ = http.ServeTLS(listener, handler, certificate, certificate) }()
	return "https://" + listener.Addr().String(), nil
}

// writeKubeconfig has the agent ask serveReviews.
func writeKubeconfig(dir string) error {
	server, err := serveReviews(filepath.Join(dir, servingFile))
	if err != nil {
		return fmt.Errorf("serving reviews: %w", err)
	}
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"bench","contexts":[{"name":"bench","context":{"cluster":"bench"}}],`+
		`"clusters":[{"name":"bench","cluster":{"server":%q,"certificate-authority":%q,"tls-server-name":%q}}]}`,
		server, agentv1.ServingCAKey, agentv1.MetricsDNSName)
	return os.WriteFile(filepath.Join(dir, "kubeconfig"), []byte(text), 0o600)
}

// everyGroup are all groups of metrics.
func everyGroup() (all []agentv1.TelemetryGroupName) {
	for group := agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_TRAFFIC; group <= agentv1.TelemetryGroupName_TELEMETRY_GROUP_NAME_API_SERVER; group++ {
		all = append(all, group)
	}
	return all
}

// offerEverything has the agent offer all groups of metrics of all pods, over a stream that stays open until ctx ends.
func (c *connection) offerEverything(ctx context.Context, keys []string) (agentv1.Agent_ConfigureTelemetryClient, error) {
	stream, err := c.client.ConfigureTelemetry(ctx)
	if err != nil {
		return nil, err
	}
	update := &agentv1.TelemetryUpdate{Config: &agentv1.TelemetryConfig{Revision: 1, Generation: 1, SeriesLimit: 50_000}, PodsComplete: true, Pods: called(keys)}
	for _, group := range everyGroup() {
		update.Config.Groups = append(update.Config.Groups, &agentv1.TelemetryGroup{Name: group})
	}
	if err := stream.Send(update); err != nil {
		return nil, err
	}
	report, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("receiving the first report: %w", err)
	}
	if report.Refused != "" || report.Revision != 1 {
		return nil, fmt.Errorf("revision %d is in force: %q", report.Revision, report.Refused)
	}
	go func() {
		for err == nil {
			_, err = stream.Recv()
		}
	}()
	return stream, nil
}

// called gives pods names as long as those of Deployments' pods.
func called(keys []string) (pods []*agentv1.TelemetryPod) {
	for i, key := range keys {
		workload := fmt.Sprintf("checkout-%d", i/4)
		pods = append(pods, &agentv1.TelemetryPod{
			Key: key, Uid: key, Namespace: fmt.Sprintf("team-%d", i%7), Name: fmt.Sprintf("%s-7d9c6b5f4-x%.6s", workload, key),
			WorkloadKind: "Deployment", WorkloadName: workload, Groups: everyGroup(),
		})
	}
	return pods
}

// A scraper scrapes as Prometheus does, over one connection.
type scraper struct {
	http *http.Client
	traffic
}

func newScraper(roots *x509.CertPool) *scraper {
	s := &scraper{}
	s.http = &http.Client{Transport: &http.Transport{
		TLSClientConfig:    &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: agentv1.MetricsDNSName},
		DisableCompression: true, // it is undone here, when the time has been taken
		DialContext:        s.dial,
	}}
	return s
}

// scrape returns the page as it came: compressed.
func (s *scraper) scrape(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+metricsAddress+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer token")
	request.Header.Set("Accept", "text/plain;version=0.0.4")
	request.Header.Set("Accept-Encoding", "gzip")
	response, err := s.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answered %s: %s", response.Status, page)
	}
	return page, err
}

// A page is what is on one: text in bytes, pods that have any series, series of pods, and of these those of pods that come and
// go; and how many goroutines the agent has.
type page struct{ text, pods, series, passing, goroutines int }

func readPage(compressed []byte) (p page, err error) {
	unpacked, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return p, fmt.Errorf("uncompressing the page: %w", err)
	}
	text, err := io.ReadAll(unpacked)
	if err != nil {
		return p, fmt.Errorf("uncompressing the page: %w", err)
	}
	p.text = len(text)
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte("networkobservability_pod_")) {
			p.series++
			if bytes.Contains(line, []byte(`namespace="`+passing+`"`)) {
				p.passing++
			}
		}
		if count, found := bytes.CutPrefix(line, []byte("go_goroutines ")); found {
			if p.goroutines, err = strconv.Atoi(string(bytes.TrimSpace(count))); err != nil {
				return p, fmt.Errorf("reading the number of goroutines: %w", err)
			}
		}
		if bytes.HasPrefix(line, []byte("networkobservability_pod_info{")) {
			p.pods++
		}
	}
	return p, nil
}

// A scraped is what scrapes cost, in the mean where nothing else is said.
type scraped struct {
	result
	page page // the last one
}

// measureScrapes scrapes one time after the other, from the first scrape on that has all pods.
func (a *agent) measureScrapes(ctx context.Context, what string, pods, scrapes int) (*scraped, error) {
	m := &scraped{result: result{what: what}}
	err := sandbox.Await(ctx, 10*time.Second, "all pods to be scraped", func() error {
		compressed, err := a.scraper.scrape(ctx)
		if err != nil {
			return err
		}
		if m.page, err = readPage(compressed); err == nil && m.page.pods != pods {
			err = fmt.Errorf("%d of %d have series", m.page.pods, pods)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	before, err := a.process.CPU()
	if err != nil {
		return nil, err
	}
	sent, received := a.scraper.sent.Load(), a.scraper.received.Load()
	for range scrapes {
		began := time.Now()
		compressed, err := a.scraper.scrape(ctx)
		if err != nil {
			return nil, err
		}
		m.milliseconds = append(m.milliseconds, float64(time.Since(began).Microseconds())/1000)
		if m.page, err = readPage(compressed); err != nil {
			return nil, err
		}
		if m.page.pods != pods {
			return nil, fmt.Errorf("%d of %d pods were scraped", m.page.pods, pods)
		}
	}
	after, err := a.process.CPU()
	n := int64(scrapes)
	m.cpu = float64((after - before).Microseconds()) / float64(scrapes)
	m.sent, m.received = (a.scraper.sent.Load()-sent)/n, (a.scraper.received.Load()-received)/n
	return m, err
}

func reportScrapes(all []*scraped, o options) error {
	fmt.Printf("\nScrapes of /metrics with all groups of %d pods, one after the other, over one connection and compressed. Text is uncompressed;\n"+
		"bytes are those of the TLS stream, both ways. A histogram has a series for each bucket. (Aim: 30 ms of processor time, 1 MB.)\n\n", o.pods)
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "WITH\tSCRAPES\tP50 ms\tP99 ms\tCPU ms A SCRAPE\tBYTES OF TEXT\tBYTES SENT\tBYTES RECEIVED\tSERIES A POD\t")
	for _, m := range all {
		fmt.Fprintf(table, "%s\t%d\t%.2f\t%.2f\t%.2f\t%d\t%d\t%d\t%.1f\t\n", m.what, len(m.milliseconds),
			paired.Percentile(m.milliseconds, 50), paired.Percentile(m.milliseconds, 99), m.cpu/1000, m.page.text, m.sent, m.received,
			float64(m.page.series)/float64(o.pods))
	}
	return table.Flush()
}
