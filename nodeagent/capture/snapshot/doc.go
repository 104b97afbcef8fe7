// Package snapshot reads the state of a network namespace, through netlink and /proc only.
package snapshot
