// Histograms of latencies whose buckets are those of Prometheus' native histograms with schema 3, so that they merge
// with any other of them: bucket i counts values above 2^((i-1)/8) and up to 2^(i/8) seconds. Slot 0 is bucket -160.
// headers.go has the same arithmetic for user space, and a test that compares both.
#ifndef NETOBS_HISTOGRAM_H
#define NETOBS_HISTOGRAM_H

#include <linux/types.h>

#define HISTOGRAM_SLOTS 209

struct histogram {
	__u64 counts[HISTOGRAM_SLOTS];
	__u64 sum_ns;
};

// histogram_slot never exceeds HISTOGRAM_SLOTS - 1.
static __attribute__((always_inline)) inline __u32 histogram_slot(__u64 ns)
{
	__u32 exponent = 0, mantissa, slot;
	__u64 units, rest;

	if (ns > 1ULL << 36) // 68.7 s: the last slot
		ns = 1ULL << 36;
	// In units of 2^-30 s a bound that is a power of two in seconds is one here too. 2^30 / 10^9 = 1 + 79179680 / 2^30.
	units = ns + (ns * 79179680 >> 30);
	if (units <= 1024)
		return 0;
	units--; // bounds belong to the bucket below them
	rest = units;
	for (__u32 step = 32; step; step >>= 1) {
		if (rest >> step) {
			rest >>= step;
			exponent += step;
		}
	}
	mantissa = units << (63 - exponent) >> 32;
	slot = (exponent - 10) * 8 + 1;
	// 2^31 times 2^(1/8) to 2^(7/8), rounded up.
	slot += mantissa >= 2341847524U;
	slot += mantissa >= 2553802834U;
	slot += mantissa >= 2784941738U;
	slot += mantissa >= 3037000500U;
	slot += mantissa >= 3311872530U;
	slot += mantissa >= 3611622603U;
	slot += mantissa >= 3938502376U;
	return slot < HISTOGRAM_SLOTS ? slot : HISTOGRAM_SLOTS - 1;
}

// histogram_add may run on several CPUs at a time.
static __attribute__((always_inline)) inline void histogram_add(struct histogram *histogram, __u64 ns)
{
	__u32 slot = histogram_slot(ns);

	if (slot >= HISTOGRAM_SLOTS) // for the verifier
		return;
	__sync_fetch_and_add(&histogram->counts[slot], 1);
	__sync_fetch_and_add(&histogram->sum_ns, ns);
}

#endif
