// Package report answers the operator's questions about status, flows, verdicts, rules, lists and peers, in the types of the
// control API.
//
// It reads the state of other packages, and brings transports up and down when an operator asks. An explanation asks the
// same policy with the same facts and changes nothing. It makes no decisions about flows.
package report
