package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
	"time"
)

const (
	controlDeadline = 90 * time.Second
	nodeDeadline    = 2 * time.Minute
	dnsDeadline     = 2 * time.Minute
)

//go:embed manifests/coredns.yaml
var corednsManifest string

// Up is the sub-command: it leaves a healthy cluster, whatever was there before.
func (c *Cluster) Up(ctx context.Context) error {
	if err := checkRoot(); err != nil {
		return err
	}
	release, err := c.claim(ctx)
	if err != nil {
		return err
	}
	defer release()
	if !c.fresh && c.healthy(ctx) == nil {
		c.Say("cluster %s is healthy: %d nodes, kubeconfig %s", c.Name, c.Nodes, c.Kubeconfig())
		return nil
	}
	err = c.bringUp(ctx)
	if err != nil && ctx.Err() == nil && !c.fresh {
		c.Say("cluster %s cannot be mended and is made anew, without what was in it: %v", c.Name, err)
		err = c.rebuild(ctx)
	}
	if ctx.Err() != nil {
		return c.interrupted()
	}
	if err != nil {
		return c.explainFailure(err)
	}
	c.Say("cluster %s is ready: export KUBECONFIG=%s", c.Name, c.Kubeconfig())
	return nil
}

// claim takes the cluster's lock and its plan.
func (c *Cluster) claim(ctx context.Context) (release func(), err error) {
	if err := os.MkdirAll(c.Output, 0o755); err != nil {
		return nil, err
	}
	release, err = lock(c.Output)
	if err != nil {
		return nil, err
	}
	err = c.removeAbandoned(ctx)
	if err == nil {
		c.Plan, c.fresh, err = claimPlan(c.Plan)
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// removeAbandoned removes a cluster of this name and of another checkout, when a killed run has left it.
func (c *Cluster) removeAbandoned(ctx context.Context) error {
	have, err := loadPlan(c.Name)
	if err != nil || have.Output == c.Output {
		return nil // claimPlan says what there is to say
	}
	if abandoned, err := have.abandoned(); err != nil || !abandoned {
		return err
	}
	former := *c
	former.Plan = have
	return c.Step("removing cluster "+c.Name+" of "+have.Output+", of which nothing runs", func() error { return former.remove(ctx) })
}

// bringUp does what is still to do, in order. Every step leaves alone what is there already.
func (c *Cluster) bringUp(ctx context.Context) error {
	c.Say("checking the machine ...")
	if err := c.preflight(ctx); err != nil {
		return err
	}
	if err := c.build(ctx); err != nil {
		return err
	}
	if err := c.Step("writing keys and configuration", c.prepare); err != nil {
		return err
	}
	if err := c.ensureNetwork(ctx); err != nil {
		return err
	}
	api, err := c.ensureControl(ctx)
	if err != nil {
		return err
	}
	if err := c.ensureNodes(ctx, api); err != nil {
		return err
	}
	return c.ensureDNS(ctx, api)
}

// prepare writes what machines read. A new cluster begins with new logs.
func (c *Cluster) prepare() error {
	if c.fresh {
		for _, old := range []string{filepath.Join(c.Output, "log"), c.Kubeconfig()} {
			if err := os.RemoveAll(old); err != nil {
				return err
			}
		}
	}
	if err := c.installProgram(); err != nil {
		return err
	}
	return c.writeFiles()
}

// ensureNetwork makes the switch. A lost switch has taken every machine's link along, so then all start again.
func (c *Cluster) ensureNetwork(ctx context.Context) error {
	if c.switchWhole() {
		return nil
	}
	return c.Step("making the network", func() error {
		if err := c.stopMachines(ctx); err != nil {
			return err
		}
		if err := c.deleteNetwork(ctx); err != nil {
			return err
		}
		return c.makeSwitch(ctx)
	})
}

// ensureControl starts the control plane. The nodes come after it: a kubelet that finds nobody takes its time
// to ask again.
func (c *Cluster) ensureControl(ctx context.Context) (*API, error) {
	if err := c.bootMachine(ctx, c.Control()); err != nil {
		return nil, err
	}
	api, err := c.api()
	if err != nil {
		return nil, err
	}
	return api, c.Step("waiting until kube-apiserver serves", func() error {
		return about(c.Control(), poll(ctx, controlDeadline, "an answer", func() error { return api.Ready(ctx) }))
	})
}

// ensureNodes starts the nodes, gives each its first images and waits until it is ready.
func (c *Cluster) ensureNodes(ctx context.Context, api *API) error {
	for _, m := range c.NodeMachines() {
		if err := c.bootMachine(ctx, m); err != nil {
			return err
		}
	}
	if err := c.joinMachines(ctx); err != nil {
		return err
	}
	return c.Step(fmt.Sprintf("loading images and waiting for %d nodes", c.Nodes), func() error {
		return c.eachNode(func(m Machine) error {
			if err := c.loadOwnImages(ctx, m); err != nil {
				return err
			}
			if err := poll(ctx, nodeDeadline, "the node", func() error { return api.NodeReady(ctx, m.Name, c.lastWord(m)) }); err != nil {
				return err
			}
			return api.DescribeNode(ctx, c.Plan, m)
		})
	})
}

// ensureDNS ends when every node gets answers: then Services, routes and CoreDNS work.
func (c *Cluster) ensureDNS(ctx context.Context, api *API) error {
	manifest, err := c.dnsManifest()
	if err != nil {
		return err
	}
	return c.Step("starting CoreDNS and waiting until every node gets answers", func() error {
		if err := c.apply(ctx, manifest); err != nil {
			return err
		}
		if err := poll(ctx, dnsDeadline, "CoreDNS", func() error { return api.DNSAvailable(ctx) }); err != nil {
			return err
		}
		return c.eachNode(func(m Machine) error {
			return poll(ctx, dnsDeadline, "DNS", func() error { return c.resolves(ctx, m) })
		})
	})
}

// resolves is nil when a node gets an answer from the DNS Service, over either family.
func (c *Cluster) resolves(ctx context.Context, m Machine) error {
	for _, server := range c.DNSService().Strings() {
		cmd, err := c.inMachine(ctx, m, "busybox", "timeout", "2", "busybox", "nslookup", "kubernetes.default.svc."+clusterDomain, server)
		if err != nil {
			return err
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("asking %s from %s: %w", server, m.Name, explain(err, out))
		}
	}
	return nil
}

func (p Plan) dnsManifest() ([]byte, error) {
	t, err := template.New("coredns").Parse(corednsManifest)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	service := p.DNSService()
	err = t.Execute(&b, map[string]string{"Domain": clusterDomain, "ServiceV4": service.V4.String(), "ServiceV6": service.V6.String()})
	return b.Bytes(), err
}

// healthy is nil when everything that up would make is there and works.
func (c *Cluster) healthy(ctx context.Context) error {
	pids, err := c.running()
	if err != nil {
		return err
	}
	for _, m := range c.Machines() {
		if pids[m.Name] == 0 {
			return fmt.Errorf("%s does not run", m.Name)
		}
	}
	if !fileExists(c.Kubeconfig()) {
		return errors.New("the kubeconfig is gone")
	}
	api, err := c.api()
	if err != nil {
		return err
	}
	if err := api.Ready(ctx); err != nil {
		return err
	}
	for _, m := range c.NodeMachines() {
		if err := api.NodeReady(ctx, m.Name, c.lastWord(m)); err != nil {
			return err
		}
	}
	return c.eachNode(func(m Machine) error { return c.resolves(ctx, m) })
}

// rebuild makes the cluster anew. What was in it is lost.
func (c *Cluster) rebuild(ctx context.Context) error {
	if err := c.remove(ctx); err != nil {
		return err
	}
	var err error
	if c.Plan, c.fresh, err = claimPlan(c.Plan); err != nil {
		return err
	}
	return c.bringUp(ctx)
}

// interrupted leaves nothing behind of a cluster that was in the making.
func (c *Cluster) interrupted() error {
	if !c.fresh {
		return errors.New("interrupted: the cluster was there before and is left as it is")
	}
	c.Say("interrupted: removing what was made")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.remove(ctx); err != nil {
		return fmt.Errorf("cleaning up after an interrupt: %w", err)
	}
	return errors.New("interrupted")
}
