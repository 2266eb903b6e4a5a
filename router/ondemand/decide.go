package ondemand

import (
	"context"
	"net/netip"
	"slices"
	"strings"
)

// Action is what to do on a network. The zero Action is Connect.
type Action uint8

// The actions.
const (
	Connect    Action = iota // transports up
	Disconnect               // transports down; flows that rules send through them are refused
	FilterOnly               // transports down; rules that allow it send directly instead
	Ignore                   // transports stay as they are
)

var actionNames = [...]string{"connect", "disconnect", "filter_only", "ignore"}

// String returns the action's name in the configuration.
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return "unknown"
}

// ParseAction returns the action with a name.
func ParseAction(word string) (Action, bool) {
	i := slices.Index(actionNames[:], word)
	return Action(max(i, 0)), i >= 0
}

// Step is one line of the list.
type Step struct {
	If   *Condition // nil always holds
	Then Action
}

// Condition describes a network. All fields that are set must match; of several values in a field, one must.
type Condition struct {
	Interface []string // that has the default route
	SSID      []string
	DNSSearch []string // domains that the network hands out
	DNSServer []netip.Addr
	GatewayIP []netip.Addr
	ProbeURL  string // answers 200 without a redirect
	Beacon    *Beacon
}

// Beacon is a TLS server, identified by the SHA-256 digest of its certificate in DER form.
type Beacon struct {
	Addr   netip.AddrPort
	SHA256 [32]byte
}

// Network is what is known about a network without a request. Unknown facts are empty.
type Network struct {
	Interface string
	SSID      string
	Search    []string
	Servers   []netip.Addr
	Gateway   netip.Addr
}

// Asker sends requests to the network. Both methods return false if they fail, and end with ctx.
type Asker interface {
	Answers(ctx context.Context, url string) bool
	Proves(ctx context.Context, b Beacon) bool
}

// Decide returns the action of the first step that matches, and its index, or Connect and -1 if none does.
func Decide(ctx context.Context, steps []Step, n Network, ask Asker) (Action, int) {
	for i, s := range steps {
		if s.If == nil || s.If.holds(ctx, n, ask) {
			return s.Then, i
		}
	}
	return Connect, -1
}

func (c *Condition) holds(ctx context.Context, n Network, ask Asker) bool {
	return oneOf(c.Interface, n.Interface) &&
		oneOf(c.SSID, n.SSID) &&
		oneOf(c.GatewayIP, n.Gateway.Unmap()) &&
		anyOf(c.DNSServer, n.Servers, func(a, b netip.Addr) bool { return a.Unmap().WithZone("") == b.Unmap().WithZone("") }) &&
		anyOf(c.DNSSearch, n.Search, sameDomain) &&
		(c.ProbeURL == "" || ask.Answers(ctx, c.ProbeURL)) &&
		(c.Beacon == nil || ask.Proves(ctx, *c.Beacon))
}

// oneOf reports whether a fact is among the values, or there are no values. An unknown fact is never among them.
func oneOf[T comparable](values []T, fact T) bool {
	var unknown T
	return len(values) == 0 || fact != unknown && slices.Contains(values, fact)
}

// anyOf is oneOf for several facts.
func anyOf[T any](values, facts []T, same func(a, b T) bool) bool {
	return len(values) == 0 || slices.ContainsFunc(values, func(v T) bool {
		return slices.ContainsFunc(facts, func(f T) bool { return same(v, f) })
	})
}

func sameDomain(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}
