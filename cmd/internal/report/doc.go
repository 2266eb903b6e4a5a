// Package report tells operators what is true: status, flows, explanations, rules, lists, peers, in the words of the
// control API.
//
// It reads what others hold and steers transports where an operator asks for it. It decides nothing about flows: an
// explanation is what the policy says when it is asked with the same facts, and changes nothing.
package report
