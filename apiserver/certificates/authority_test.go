package certificates

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

var (
	epoch    = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	testPace = pace{lifetime: 300 * time.Hour, propagation: time.Hour}
)

func firstTrust(t testing.TB, now time.Time) *trust {
	t.Helper()
	first, changed, err := (*trust)(nil).tended(now, testPace)
	if err != nil || !changed {
		t.Fatalf("first trust: changed %v, %v", changed, err)
	}
	return first
}

func tend(t testing.TB, before *trust, now time.Time, wantChange bool) *trust {
	t.Helper()
	after, changed, err := before.tended(now, testPace)
	if err != nil {
		t.Fatal(err)
	}
	if changed != wantChange {
		t.Fatalf("at +%v changed is %v", now.Sub(epoch), changed)
	}
	return after
}

// signer is the number of the generation that signs.
func signer(t testing.TB, a authority, now time.Time) int {
	t.Helper()
	signing, err := a.signing(now, testPace.propagation)
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range a.generations {
		if g.certificate == signing.certificate {
			return i
		}
	}
	t.Fatal("the signer is no generation")
	return 0
}

func keys(a authority) (n int) {
	for _, g := range a.generations {
		if g.key != nil {
			n++
		}
	}
	return n
}

func TestLifeOfAnAuthority(t *testing.T) {
	a := firstTrust(t, epoch)
	// The first generation signs at once: nothing else could.
	if n := signer(t, a.serving, epoch); n != 0 {
		t.Errorf("generation %d signs", n)
	}
	a = tend(t, a, epoch.Add(199*time.Hour), false)

	// With a third left comes the next. It is trusted, and does not sign.
	at := epoch.Add(200*time.Hour + time.Second)
	a = tend(t, a, at, true)
	if len(a.serving.trusted(at)) != 2 || signer(t, a.serving, at) != 0 || keys(a.serving) != 2 {
		t.Errorf("%d trusted, generation %d signs, %d keys", len(a.serving.trusted(at)), signer(t, a.serving, at), keys(a.serving))
	}
	a = tend(t, a, at.Add(59*time.Minute), false)

	// After the time that bundles need it signs, and the old key is destroyed.
	at = at.Add(61 * time.Minute)
	if signer(t, a.serving, at) != 1 {
		t.Error("the new generation does not sign")
	}
	a = tend(t, a, at, true)
	if len(a.serving.trusted(at)) != 2 || keys(a.serving) != 1 || a.serving.generations[0].key != nil {
		t.Errorf("%d trusted, %d keys", len(a.serving.trusted(at)), keys(a.serving))
	}

	// The old one is trusted until it expires.
	a = tend(t, a, epoch.Add(299*time.Hour), false)
	a = tend(t, a, epoch.Add(301*time.Hour), true)
	if len(a.serving.generations) != 1 {
		t.Errorf("%d generations", len(a.serving.generations))
	}

	// A cluster that was off for a year starts anew.
	at = epoch.Add(10000 * time.Hour)
	a = tend(t, a, at, true)
	if len(a.serving.generations) != 1 || signer(t, a.serving, at) != 0 {
		t.Errorf("%d generations after all have expired", len(a.serving.generations))
	}
}

func TestTrustSurvivesTheSecret(t *testing.T) {
	at := epoch.Add(201 * time.Hour)
	a := tend(t, firstTrust(t, epoch), at, true)
	data, err := a.data()
	if err != nil {
		t.Fatal(err)
	}
	b, err := parseTrust(data)
	if err != nil {
		t.Fatal(err)
	}
	tend(t, b, at, false)
	if string(b.serving.bundle(at)) != string(a.serving.bundle(at)) || keys(b.serving) != 2 || keys(b.client) != 2 {
		t.Error("what is read is not what was written")
	}
}

func TestParseTrustRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(data map[string][]byte)
		says  string
	}{
		"a missing key":        {func(d map[string][]byte) { delete(d, servingKeys) }, "reading keys"},
		"a missing bundle":     {func(d map[string][]byte) { delete(d, clientCertificates) }, "reading the client authority: reading certificates"},
		"trailing text":        {func(d map[string][]byte) { d[servingCertificates] = append(d[servingCertificates], "more"...) }, "not a list of PEM blocks"},
		"the other's key":      {func(d map[string][]byte) { d[servingKeys] = d[clientKeys] }, "belongs to no certificate"},
		"a key in the bundle":  {func(d map[string][]byte) { d[servingCertificates] = d[servingKeys] }, `not a "CERTIFICATE"`},
		"a certificate as key": {func(d map[string][]byte) { d[servingKeys] = d[servingCertificates] }, `not a "PRIVATE KEY"`},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := firstTrust(t, epoch).data()
			if err != nil {
				t.Fatal(err)
			}
			test.spoil(data)
			if _, err := parseTrust(data); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error is %v, want %q", err, test.says)
			}
		})
	}
	if got, err := parseTrust(map[string][]byte{"other": []byte("x")}); got != nil || err != nil {
		t.Errorf("a placeholder gives %v, %v", got, err)
	}
}

// agentLeaf is what an agent gets of its request.
func agentLeaf(t testing.TB, a authority, node string, now time.Time) tls.Certificate {
	t.Helper()
	g, err := a.signing(now, testPace.propagation)
	if err != nil {
		t.Fatal(err)
	}
	l, err := mint(g, &x509.Certificate{DNSNames: []string{agentv1.DNSName(node)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, now)
	if err != nil {
		t.Fatal(err)
	}
	return l.pair
}

func poolOf(certificates []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certificates {
		pool.AddCert(c)
	}
	return pool
}

// handshake makes a TLS 1.3 connection over loopback memory and returns both ends.
func handshake(t testing.TB, server, client *tls.Config) (near, far *tls.Conn, err error) {
	t.Helper()
	a, b := net.Pipe()
	far, near = tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		err := far.Handshake()
		if err != nil {
			a.Close()
		}
		done <- err
	}()
	err = near.Handshake()
	if err != nil {
		b.Close()
	}
	if serverErr := <-done; err == nil {
		err = serverErr
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return near, far, err
}

func TestHandshakesAcrossRotation(t *testing.T) {
	now := func() time.Time { return epoch }
	old := firstTrust(t, epoch)
	client, err := mintClient(old, epoch)
	if err != nil {
		t.Fatal(err)
	}
	serverConfig := func(pair tls.Certificate, clients authority) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Time: now, Certificates: []tls.Certificate{pair},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: poolOf(clients.trusted(now())),
		}
	}
	clientConfig := func(pair tls.Certificate, servers authority) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Time: now, ServerName: agentv1.DNSName("n"),
			RootCAs: poolOf(servers.trusted(now())), Certificates: []tls.Certificate{pair},
		}
	}
	near, far, err := handshake(t, serverConfig(agentLeaf(t, old.serving, "n", epoch), old.client), clientConfig(client.pair, old.serving))
	if err != nil {
		t.Fatal(err)
	}

	// The next generation is there: old leaves are trusted by those who know it.
	at := epoch.Add(201 * time.Hour)
	next := tend(t, old, at, true)
	oldAgent := agentLeaf(t, old.serving, "n", at)
	now = func() time.Time { return at }
	client, err = mintClient(old, at)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := handshake(t, serverConfig(oldAgent, next.client), clientConfig(client.pair, next.serving)); err != nil {
		t.Errorf("old leaves, new bundles: %v", err)
	}
	// Before propagation, new leaves are trusted by those who do not know it yet.
	if _, _, err := handshake(t, serverConfig(agentLeaf(t, next.serving, "n", at), old.client), clientConfig(client.pair, old.serving)); err != nil {
		t.Errorf("new leaves, old bundles: %v", err)
	}
	// After it, new leaves need the new bundle, which everyone has.
	at = at.Add(2 * time.Hour)
	newAgent := agentLeaf(t, next.serving, "n", at)
	if _, _, err := handshake(t, serverConfig(newAgent, next.client), clientConfig(client.pair, next.serving)); err != nil {
		t.Errorf("new leaves, new bundles: %v", err)
	}
	if _, _, err := handshake(t, serverConfig(newAgent, next.client), clientConfig(client.pair, old.serving)); err == nil {
		t.Error("a leaf is trusted without its authority")
	}
	// The connection from before goes on.
	go far.Write([]byte("still here"))
	text := make([]byte, 10)
	if _, err := io.ReadFull(near, text); err != nil || string(text) != "still here" {
		t.Errorf("the old connection says %q, %v", text, err)
	}
}

func mintClient(t *trust, now time.Time) (*leaf, error) {
	g, err := t.client.signing(now, testPace.propagation)
	if err != nil {
		return nil, err
	}
	return mint(g, clientTemplate(), now)
}

// TestAuthoritiesDoNotMix gives an agent's leaf every chance to act as a client.
func TestAuthoritiesDoNotMix(t *testing.T) {
	a := firstTrust(t, epoch)
	agent := agentLeaf(t, a.serving, "n", epoch)
	if _, err := agent.Leaf.Verify(x509.VerifyOptions{
		Roots: poolOf(a.client.trusted(epoch)), CurrentTime: epoch, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err == nil {
		t.Error("an agent's certificate chains to the client authority")
	}
	// Even one that says it is a client's does not pass for one under the serving authority.
	g := a.serving.generations[0]
	forged, err := mint(g, clientTemplate(), epoch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := forged.pair.Leaf.Verify(x509.VerifyOptions{
		Roots: poolOf(a.serving.trusted(epoch)), CurrentTime: epoch, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err == nil {
		t.Error("the serving authority can make certificates of clients")
	}
}

func TestLeafEndsWithItsAuthority(t *testing.T) {
	a := firstTrust(t, epoch)
	at := epoch.Add(testPace.lifetime - time.Hour)
	l, err := mint(a.client.generations[0], clientTemplate(), at)
	if err != nil {
		t.Fatal(err)
	}
	if end := l.pair.Leaf.NotAfter; end.After(a.client.generations[0].certificate.NotAfter) {
		t.Errorf("the leaf ends at %v", end)
	}
}

// TestLeafFromTheFuture: a leaf that was made while the clock was ahead is replaced when the clock is set right, since nobody
// else would take it.
func TestLeafFromTheFuture(t *testing.T) {
	a := firstTrust(t, epoch)
	l, err := mint(a.client.generations[0], clientTemplate(), epoch.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for ahead, want := range map[time.Duration]bool{time.Hour: false, backdate: true, 0: true} {
		at := epoch.Add(time.Hour - ahead)
		if got := l.fresh(at, a.client.trusted(at)); got != want {
			t.Errorf("made %v ahead: fresh is %v, want %v", ahead, got, want)
		}
	}
}

// TestAuthorityFromTheFuture: what was made while the clock was ahead signs nothing when the clock is set right, since nobody
// would take it, and is the next generation when its time has come.
func TestAuthorityFromTheFuture(t *testing.T) {
	for name, test := range map[string]struct {
		before *trust
		ahead  time.Duration
	}{
		"the first":                       {nil, 90 * time.Hour},
		"the next, and the last sign yet": {firstTrust(t, epoch), 210 * time.Hour},
		"all others seemed expired":       {firstTrust(t, epoch), 400 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			a, _, err := test.before.tended(epoch.Add(test.ahead), testPace)
			if err != nil {
				t.Fatal(err)
			}
			takenNow(t, a, epoch)
		})
	}
	t.Run("the key before it is gone", func(t *testing.T) {
		ahead := epoch.Add(210 * time.Hour)
		a := tend(t, firstTrust(t, epoch), ahead, true)
		a = tend(t, a, ahead.Add(2*time.Hour), true)
		takenNow(t, a, epoch)
	})
}

// takenNow sees that leaves are taken when the clock is right, and go on being taken until what came from the future signs.
func takenNow(t *testing.T, a *trust, now time.Time) {
	t.Helper()
	newest := func(a *trust) *x509.Certificate {
		return a.serving.generations[len(a.serving.generations)-1].certificate
	}
	future := newest(a)
	for ; now.Before(future.NotBefore.Add(backdate + 2*time.Hour)); now = now.Add(10 * time.Hour) {
		var err error
		if a, _, err = a.tended(now, testPace); err != nil {
			t.Fatal(err)
		}
		leaf := agentLeaf(t, a.serving, "n", now).Leaf
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: poolOf(a.serving.trusted(now)), CurrentTime: now}); err != nil {
			t.Fatalf("at +%v: %v", now.Sub(epoch), err)
		}
		if newest(a) != future {
			t.Fatalf("at +%v what came from the future is not the next generation", now.Sub(epoch))
		}
		if data, err := a.data(); err != nil {
			t.Fatal(err)
		} else if b, err := parseTrust(data); err != nil || string(b.serving.bundle(now)) != string(a.serving.bundle(now)) {
			t.Fatalf("at +%v what is read is not what was written (%v)", now.Sub(epoch), err)
		}
		tend(t, a, now, false)
	}
	if signing, err := a.serving.signing(now, testPace.propagation); err != nil || signing.certificate != future {
		t.Errorf("at +%v what came from the future does not sign (%v)", now.Sub(epoch), err)
	}
}

// TestClockBehind: a replica whose clock is behind can use what others made, rather than nothing, and does not replace its
// leaves at each look.
func TestClockBehind(t *testing.T) {
	a := firstTrust(t, epoch)
	at := epoch.Add(-time.Hour)
	l, err := mintClient(a, at)
	if err != nil {
		t.Fatal(err)
	}
	if !l.fresh(at, a.client.issuers(at)) {
		t.Error("a leaf is not fresh that could not be another one")
	}
}
