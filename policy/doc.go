// Package policy decides what happens to a flow: rules over names, categories, addresses, ports and people.
//
// It is pure: no I/O, no clock of its own, no goroutines. Callers ask the same Policy twice: about the DNS question, which
// has a name and no address, and about the flow that follows, which has both. It does not dial, resolve or read packets.
package policy
