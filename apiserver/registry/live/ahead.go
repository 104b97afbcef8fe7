package live

import metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"

// pagesAhead is how many pages a node is read ahead for: as many as a client takes in less than the second for which
// an answer is shared. The pods of a page are on nearly as many nodes, so that without it a list of 100,000 pods in
// pages of 500 would ask 1,000 nodes 80,000 times for one or two pods each.
const pagesAhead = 20

// maxAhead bounds what large pages lead to: kept answers take some KiB a record.
const maxAhead = 10_000

// nextPages are the records of the pages that follow. A client that asks for a second page takes them all; one that
// asks for a first may not.
func (r *REST) nextPages(options *metainternalversion.ListOptions, selection *selection, page page) []*Record {
	if options.Continue == "" || !page.more {
		return nil
	}
	last := page.records[len(page.records)-1].key()
	return r.store.following(selection, last, min(pagesAhead*len(page.records), maxAhead))
}
