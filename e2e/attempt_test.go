package e2e

import (
	"slices"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// attempt is something that a person may type on a host, and what is to come of it.
type attempt struct {
	sentence string
	command  string // words without quotes; curl is given the lab's CA and a limit of time
	want     string // is in what is printed
	codes    []int  // of which the exit code is one; nil: 0
}

// Exit codes of curl.
const (
	noSuchName   = 6
	notConnected = 7
	timedOut     = 28
)

// cutOff are those of a connection that was accepted to hear a name, and ended: in TLS, without an answer, by a reset.
func cutOff() []int { return []int{35, 52, 56} }

// refusedOrCutOff are those where it does not matter whether the name was known before the connection.
func refusedOrCutOff() []int { return append(cutOff(), notConnected) }

// on tries it on a host.
func (a attempt) on(t *testing.T, h *netlab.Host) {
	t.Helper()
	words := strings.Fields(a.command)
	if words[0] == "curl" {
		words = slices.Insert(words, 1, "-sS", "--max-time", "15", "--noproxy", "*", "--cacert", netlab.CAFile)
	}
	codes := a.codes
	if codes == nil {
		codes = []int{0}
	}
	r := run(t, h, program(t, words[0]), words[1:]...)
	if !slices.Contains(codes, r.code) || !strings.Contains(r.stdout, a.want) {
		t.Errorf("%s: got %s\nwant an exit code of %v, %q", a.command, r, codes, a.want)
	}
}

// tryAll tries each, as a test of its own.
func tryAll(t *testing.T, h *netlab.Host, attempts []attempt) {
	t.Helper()
	for _, a := range attempts {
		t.Run(a.sentence, func(t *testing.T) { a.on(t, h) })
	}
}
