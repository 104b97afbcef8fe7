// Package e2e proves on a real cluster what the project promises: that counters equal an independent count,
// that kubectl and client-go get what they expect, that rights hold, and that faults end as they should.
//
// The tests are in the _test files, one theme each. They need root on the machine that runs the cluster's
// nodes, since they count, stop and cut off from the outside, and the variable E2E_OUTPUT: the folder that
// holds the cluster's kubeconfig. `make e2e` makes such a cluster. To run one test on a cluster that is there:
//
//	E2E_OUTPUT=$PWD/_output/demo go test -race -count=1 -run TestExactness ./test/e2e
//
// Tests that disturb the cluster run one after another, before all others.
package e2e
