// Package networktelemetry serves networktelemetries from a store. What happens to one that is written:
//
//	decoded     defaults (apis/networkobservability/install)
//	admission   the checks of the contract, then whether the requester may get the Secrets that exporters name
//	            (admission.go): agents send what is in them to where the requester says
//	strategy    keeps status and spec apart, raises the generation with the spec, and what remains of the checks
//	            (strategy.go)
//	stored      through any generic.RESTOptionsGetter
//
// All of it is in the store's hooks and strategies, which create, update, patch and server-side apply all pass. There is
// one object, "cluster". Who brings it to agents writes status through the subresource.
package networktelemetry
