// Package fleet makes a gateway one of several: it takes bundles from a store and puts them in force, tells the others how it is and
// which peers it has, and takes over the peers of a gateway that is gone.
//
// The store is never needed to serve: without it the gateway goes on with the bundle that it has.
package fleet
