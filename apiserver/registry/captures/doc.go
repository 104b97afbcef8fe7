// Package captures serves captures and clustercaptures from a store. What happens to one that is created:
//
//	decoded     defaults (apis/networkobservability/install)
//	admit       checks that need more than the text: those of the contract (apis/networkobservability/validation) first, then the operator's policy,
//	            the filter by the compiler, the requester's rights, and which pods match (admission.go); a dry run also
//	            tells what would be recorded (preview.go)
//	strategy    stamps the requester, and what remains of the checks (strategy.go)
//	stored      through any generic.RESTOptionsGetter
//
// Everything is in the store's hooks and strategies, which create, create by update and server-side apply all pass.
// The controller writes status through the subresource; a single get asks it for what is newer than what is stored.
package captures
