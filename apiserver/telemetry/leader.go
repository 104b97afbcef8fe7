package telemetry

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	agentv1 "github.com/networkobservability/networkobservability/apis/agent/v1alpha1"
)

// leaseName is the Lease of the replica that tells agents about telemetry.
const leaseName = "networkobservability-telemetry"

// lead stands for leader until ctx ends, again after each defeat.
func (c *Controller) lead(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.candidacy(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "No leader can be elected, and telemetry is not configured")
			return
		}
	}
}

// candidacy is one, and the time as leader if it succeeds. The Lease is given back when the term has ended and not before:
// client-go releases it as soon as the election's context ends, so that outlives it.
func (c *Controller) candidacy(ctx context.Context) error {
	election, resign := context.WithCancel(context.WithoutCancel(ctx))
	elected := make(chan context.Context, 1)
	elector, err := c.elector(func(leading context.Context) { elected <- leading })
	if err != nil {
		resign()
		return fmt.Errorf("standing for leader: %w", err)
	}
	var duties sync.WaitGroup
	duties.Go(func() {
		defer resign()
		select {
		case leading := <-elected:
			leading, stop := context.WithCancel(leading)
			defer stop()
			defer context.AfterFunc(ctx, stop)()
			newTerm(c).run(leading)
		case <-ctx.Done():
		case <-election.Done():
		}
	})
	elector.Run(election)
	resign()
	duties.Wait()
	return nil
}

func (c *Controller) elector(started func(context.Context)) (*leaderelection.LeaderElector, error) {
	return leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: leaseName,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: agentv1.Namespace, Name: leaseName},
			Client:    c.cfg.Client.CoordinationV1(),
			// A restarted process is another candidate than the one before it.
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.cfg.Identity + "_" + string(uuid.NewUUID())},
		},
		LeaseDuration:   15 * time.Second,
		RenewDeadline:   10 * time.Second,
		RetryPeriod:     2 * time.Second,
		ReleaseOnCancel: true,
		Callbacks:       leaderelection.LeaderCallbacks{OnStartedLeading: started, OnStoppedLeading: func() {}},
	})
}
