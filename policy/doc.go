// Package policy decides what happens to a flow: rules over names, categories, addresses, ports and people.
//
// It is pure: no I/O, no clock of its own, no goroutines. One Policy is asked twice, with a DNS question (a name and no
// address) and with a flow (both). It does not dial, resolve or read packets.
package policy
