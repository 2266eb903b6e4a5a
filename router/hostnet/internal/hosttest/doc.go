// Package hosttest is a laptop in namespaces of its own, for the tests of hostnet and the packages below it.
//
// It knows nothing of what those packages do to the host. Linux only.
package hosttest
