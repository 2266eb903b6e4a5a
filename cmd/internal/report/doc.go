// Package report tells operators what is true: status, flows, explanations, rules, lists, peers, in the words of the
// control API.
//
// It reads the state of other packages, and steers transports when an operator asks. It decides nothing about flows. An
// explanation asks the policy with the same facts, and changes nothing.
package report
