package storage

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	apistorage "k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
)

// The subjects of the upstream suite.
const (
	cachedEnvelopes = "envelopes"       // as the server stores by default
	rawEnvelopes    = "envelopes alone" // without the cache
	cachedEtcd      = "etcd"            // as the server stores with --etcd-servers
	rawEtcd         = "etcd alone"      // without the cache
)

var subjects = []string{cachedEnvelopes, rawEnvelopes, cachedEtcd, rawEtcd}

// Why tests of the upstream suite are skipped.
const (
	noTTL        = "nothing of ours is stored with a time to live: it is refused"
	noUnsafe     = "for the feature gate AllowUnsafeMalformedObjectDeletion, which is off: envelopes can be deleted with kubectl"
	onlyTogether = "for a feature gate that the server's own storage reads when it is made, which is off"
	noTransform  = "replaces the transformer under a cache that reads through it; runs against the storage alone"
	cacheHistory = "empties the cache's history through its unexported fields; runs against the storage alone"
	cacheWatches = "the cache does the watching: see Watch; runs against the storage with its cache"
	hostHistory  = "the host answers from its cache's history, which outlives what etcd compacts; see TestExpiredWatch"
	askedRarely  = "the cache asks only every 15 s what is compacted; runs against the storage alone"
	corrupt      = "upstream's factory calls corrupt what the test expects to be called internal"
	noRevision   = "the host does not tell what it has compacted: 0 is the answer for unknown"
	upstreamSkip = "upstream does not run it against the cache either, since limits are ignored for version 0; runs against the storage alone"
	cancelled    = "upstream does not run it against the cache either, which begins a watch all the same; runs against the storage alone"
	noProgress   = "optional, of the storage alone: bookmarks of etcd come when nothing else does"
)

// A suiteTest is a test of k8s.io/apiserver/pkg/storage/testing, and why a subject is not put to it.
type suiteTest struct {
	name string
	run  func(t *testing.T, s *subject)
	skip map[string]string
}

func plain(run func(context.Context, *testing.T, apistorage.Interface)) func(*testing.T, *subject) {
	return func(t *testing.T, s *subject) { run(t.Context(), t, s) }
}

func everywhere(reason string) map[string]string {
	return map[string]string{cachedEnvelopes: reason, rawEnvelopes: reason, cachedEtcd: reason, rawEtcd: reason}
}

func on(reason string, subjects ...string) map[string]string {
	skip := map[string]string{}
	for _, subject := range subjects {
		skip[subject] = reason
	}
	return skip
}

func both(a, b map[string]string) map[string]string {
	for subject, reason := range b {
		a[subject] = reason
	}
	return a
}

var suite = []suiteTest{
	{name: "RunTestCreate", run: func(t *testing.T, s *subject) { storagetesting.RunTestCreate(t.Context(), t, s, s.validate) }},
	{name: "RunTestCreateWithTTL", run: plain(storagetesting.RunTestCreateWithTTL), skip: on(noTTL, cachedEnvelopes, rawEnvelopes)},
	{name: "RunTestCreateWithKeyExist", run: plain(storagetesting.RunTestCreateWithKeyExist)},
	{name: "RunTestGet", run: func(t *testing.T, s *subject) { storagetesting.RunTestGet(t.Context(), t, withoutTTL{s}) }},
	{name: "RunTestUnconditionalDelete", run: plain(storagetesting.RunTestUnconditionalDelete)},
	{name: "RunTestConditionalDelete", run: plain(storagetesting.RunTestConditionalDelete)},
	{name: "RunTestDeleteWithSuggestion", run: plain(storagetesting.RunTestDeleteWithSuggestion)},
	{name: "RunTestDeleteWithSuggestionAndConflict", run: plain(storagetesting.RunTestDeleteWithSuggestionAndConflict)},
	{name: "RunTestDeleteWithConflict", run: plain(storagetesting.RunTestDeleteWithConflict)},
	{name: "RunTestDeleteWithSuggestionOfDeletedObject", run: plain(storagetesting.RunTestDeleteWithSuggestionOfDeletedObject)},
	{name: "RunTestValidateDeletionWithSuggestion", run: plain(storagetesting.RunTestValidateDeletionWithSuggestion)},
	{name: "RunTestValidateDeletionWithOnlySuggestionValid", run: plain(storagetesting.RunTestValidateDeletionWithOnlySuggestionValid)},
	{name: "RunTestPreconditionalDeleteWithSuggestion", run: plain(storagetesting.RunTestPreconditionalDeleteWithSuggestion)},
	{name: "RunTestPreconditionalDeleteWithOnlySuggestionPass", run: plain(storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass)},
	{name: "RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError", skip: everywhere(noUnsafe)},
	{name: "RunTestDeleteExpectedTransformOrDecodeError", skip: everywhere(noUnsafe)},
	{name: "RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError", skip: everywhere(noUnsafe)},
	{name: "RunTestGetListWithErrorAggregation", skip: everywhere(noUnsafe)},
	{name: "RunTestGetListWithoutErrorAggregation", skip: everywhere(noUnsafe)},
	{name: "RunTestWatchWithUnsafeDelete", skip: everywhere(noUnsafe)},

	{name: "RunTestList", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestList(t.Context(), t, s, s.compact, s.cached, storagetesting.NewKubernetesRecorder(nil))
	}, skip: on(askedRarely, cachedEtcd)},
	{name: "RunTestConsistentList", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestConsistentList(t.Context(), t, s, s.increase, s.cached, s.reads, s.reads && s.cached)
	}},
	{name: "RunTestGetListNonRecursive", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestGetListNonRecursive(t.Context(), t, s.increase, s)
	}},
	{name: "RunTestGetListRecursivePrefix", run: plain(storagetesting.RunTestGetListRecursivePrefix)},
	{name: "RunTestListContinuation", run: func(t *testing.T, s *subject) { storagetesting.RunTestListContinuation(t.Context(), t, s, nil) }},
	{name: "RunTestListPaginationRareObject", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestListPaginationRareObject(t.Context(), t, s, nil)
	}},
	{name: "RunTestListContinuationWithFilter", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestListContinuationWithFilter(t.Context(), t, s, func(*testing.T, uint64, uint64) {})
	}},
	{name: "RunTestListInconsistentContinuation", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestListInconsistentContinuation(t.Context(), t, s, s.compact)
	}, skip: on(upstreamSkip, cachedEnvelopes, cachedEtcd)},
	{name: "RunTestListResourceVersionMatch", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestListResourceVersionMatch(t.Context(), t, s)
	}, skip: on(noTransform, cachedEnvelopes, cachedEtcd)},
	{name: "RunTestListPaging", run: plain(storagetesting.RunTestListPaging)},
	{name: "RunTestNamespaceScopedList", run: plain(storagetesting.RunTestNamespaceScopedList)},
	{name: "RunTestCompactRevision", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestCompactRevision(t.Context(), t, s, s.increase, s.compact)
	}, skip: both(on(noRevision, cachedEnvelopes, rawEnvelopes), on(askedRarely, cachedEtcd))},
	{name: "RunTestKeySchema", run: plain(storagetesting.RunTestKeySchema)},

	{name: "RunTestGuaranteedUpdate", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestGuaranteedUpdate(t.Context(), t, s, s.validate)
	}, skip: on(noTransform, cachedEnvelopes, cachedEtcd)},
	{name: "RunTestGuaranteedUpdateWithTTL", run: plain(storagetesting.RunTestGuaranteedUpdateWithTTL), skip: on(noTTL, cachedEnvelopes, rawEnvelopes)},
	{name: "RunTestGuaranteedUpdateChecksStoredData", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestGuaranteedUpdateChecksStoredData(t.Context(), t, s)
	}, skip: on(noTransform, cachedEnvelopes, cachedEtcd)},
	{name: "RunTestGuaranteedUpdateWithConflict", run: plain(storagetesting.RunTestGuaranteedUpdateWithConflict)},
	{name: "RunTestGuaranteedUpdateWithSuggestionAndConflict", run: plain(storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict)},
	{name: "RunTestTransformationFailure", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestTransformationFailure(t.Context(), t, s)
	}, skip: both(on(noTransform, cachedEnvelopes, cachedEtcd), on(corrupt, rawEtcd))},
	{name: "RunTestStats", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestStats(t.Context(), t, s, s.codec, identity.NewEncryptCheckTransformer(), s.sized)
	}},

	{name: "RunTestWatch", run: plain(storagetesting.RunTestWatch), skip: on(cacheWatches, rawEnvelopes)},
	{name: "RunTestWatchFromZero", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestWatchFromZero(t.Context(), t, s, s.compact)
	}, skip: both(on(hostHistory, rawEnvelopes), on(cacheHistory, cachedEnvelopes, cachedEtcd))},
	{name: "RunTestDeleteTriggerWatch", run: plain(storagetesting.RunTestDeleteTriggerWatch)},
	{name: "RunTestWatchFromNonZero", run: plain(storagetesting.RunTestWatchFromNonZero)},
	{name: "RunTestDelayedWatchDelivery", run: plain(storagetesting.RunTestDelayedWatchDelivery)},
	{name: "RunTestWatchError", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestWatchError(t.Context(), t, s)
	}, skip: on(noTransform, cachedEnvelopes, cachedEtcd)},
	{name: "RunWatchErrorIsBlockingFurtherEvents", run: func(t *testing.T, s *subject) {
		storagetesting.RunWatchErrorIsBlockingFurtherEvents(t.Context(), t, s)
	}, skip: on(noTransform, cachedEnvelopes, cachedEtcd)},
	{name: "RunTestWatchContextCancel", run: plain(storagetesting.RunTestWatchContextCancel), skip: on(cancelled, cachedEnvelopes, cachedEtcd)},
	{name: "RunTestWatcherTimeout", run: plain(storagetesting.RunTestWatcherTimeout), skip: on(cacheWatches, rawEnvelopes)},
	{name: "RunTestWatchDeleteEventObjectHaveLatestRV", run: plain(storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV)},
	{name: "RunTestWatchInitializationSignal", run: plain(storagetesting.RunTestWatchInitializationSignal), skip: on(cacheWatches, rawEnvelopes)},
	{name: "RunOptionalTestProgressNotify", skip: everywhere(noProgress)},
	{name: "RunTestClusterScopedWatch", run: plain(storagetesting.RunTestClusterScopedWatch), skip: on(cacheWatches, rawEnvelopes)},
	{name: "RunTestNamespaceScopedWatch", run: plain(storagetesting.RunTestNamespaceScopedWatch), skip: on(cacheWatches, rawEnvelopes)},
	{name: "RunTestWatchDispatchBookmarkEvents", run: func(t *testing.T, s *subject) {
		storagetesting.RunTestWatchDispatchBookmarkEvents(t.Context(), t, s, s.cached)
	}, skip: on(cacheWatches, rawEnvelopes)},
	{name: "RunTestOptionalWatchBookmarksWithCorrectResourceVersion", run: plain(storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion),
		skip: on(cacheWatches, rawEnvelopes, rawEtcd)},
	{name: "RunSendInitialEventsBackwardCompatibility", run: plain(storagetesting.RunSendInitialEventsBackwardCompatibility), skip: on(cacheWatches, rawEnvelopes)},
	{name: "RunWatchSemantics", run: seen(storagetesting.RunWatchSemantics), skip: on(cacheWatches, rawEnvelopes)},
	{name: "RunWatchSemanticInitialEventsExtended", run: seen(storagetesting.RunWatchSemanticInitialEventsExtended), skip: on(cacheWatches, rawEnvelopes)},
	{name: "RunWatchListMatchSingle", run: seen(storagetesting.RunWatchListMatchSingle), skip: on(cacheWatches, rawEnvelopes)},
}

// TestSuite puts the storages to the generic server's own suite, against a real kube-apiserver and a real etcd.
func TestSuite(t *testing.T) {
	needCluster(t)
	for _, name := range subjects {
		t.Run(name, func(t *testing.T) {
			for _, test := range suite {
				t.Run(test.name, func(t *testing.T) {
					if reason := test.skip[name]; reason != "" {
						t.Skip(reason)
					}
					test.run(t, newSubject(t, name, test.name))
				})
			}
		})
	}
}

// TestSuiteIsWhole: no test of upstream's is missing above.
func TestSuiteIsWhole(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "k8s.io/apiserver/pkg/storage/testing").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*_tests.go"))
	if err != nil {
		t.Fatal(err)
	}
	var known, there []string
	for _, test := range suite {
		known = append(known, test.name)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, declared := range file.Decls {
			function, ok := declared.(*ast.FuncDecl)
			if ok && function.Recv == nil && strings.HasPrefix(function.Name.Name, "Run") && !strings.HasPrefix(function.Name.Name, "RunBenchmark") {
				there = append(there, function.Name.Name)
			}
		}
	}
	slices.Sort(known)
	slices.Sort(there)
	if !slices.Equal(known, there) {
		t.Errorf("known are\n%q\nand upstream has\n%q", known, there)
	}
}

// printSkips prints what of the suite is skipped, and why.
func printSkips(w io.Writer) {
	fmt.Fprintln(w, "Skipped of k8s.io/apiserver/pkg/storage/testing:")
	for _, test := range suite {
		reasons := map[string][]string{}
		for _, subject := range subjects {
			if reason := test.skip[subject]; reason != "" {
				reasons[reason] = append(reasons[reason], subject)
			}
		}
		for reason, subjects := range reasons {
			fmt.Fprintf(w, "  %s (%s): %s\n", test.name, strings.Join(subjects, ", "), reason)
		}
	}
}

// seen runs a test that expects what was created to be in the cache already.
func seen(run func(context.Context, *testing.T, apistorage.Interface)) func(*testing.T, *subject) {
	return func(t *testing.T, s *subject) { run(t.Context(), t, seenStorage{s}) }
}

type seenStorage struct{ *subject }

func (s seenStorage) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if err := s.subject.Create(ctx, key, obj, out, ttl); err != nil {
		return err
	}
	return await(ctx, "the cache to see "+key, func() error {
		got := &example.Pod{}
		if err := s.Get(ctx, key, apistorage.GetOptions{ResourceVersion: "0"}, got); err != nil {
			return err
		}
		if want := out.(*example.Pod).ResourceVersion; got.ResourceVersion != want {
			return fmt.Errorf("it is at %s, not %s", got.ResourceVersion, want)
		}
		return nil
	})
}

// withoutTTL is for a test that sets a time to live for no reason.
type withoutTTL struct{ apistorage.Interface }

func (s withoutTTL) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *apistorage.Preconditions, try apistorage.UpdateFunc, suggested runtime.Object) error {
	return s.Interface.GuaranteedUpdate(ctx, key, out, ignoreNotFound, preconditions,
		func(input runtime.Object, meta apistorage.ResponseMeta) (runtime.Object, *uint64, error) {
			output, _, err := try(input, meta)
			return output, nil, err
		}, suggested)
}
