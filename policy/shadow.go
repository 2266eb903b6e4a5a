package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
)

// Warnings returns one sentence for each rule that never matches because a single earlier rule matches all of its flows.
func (p *Policy) Warnings() []string {
	var list []string
	first := len(p.rules) - len(p.config.Rules) // behind the decisions
	for j := first; j < len(p.rules); j++ {
		for i := first; i < j; i++ {
			a, b := &p.rules[i], &p.rules[j]
			if b.Do.UnnamedBlock && !a.Do.UnnamedBlock && p.matchers[i].named {
				continue // a does not match an unnamed flow, and b blocks it
			}
			if covers(&a.Match, &b.Match) {
				list = append(list, fmt.Sprintf("%s is never reached: %s already matches all its flows: move it up or remove it", b.place(), a.place()))
				break
			}
		}
	}
	return list
}

// covers reports whether a certainly matches every flow that b matches. In doubt it returns false.
func covers(a, b *Match) bool {
	if a.Not != nil && (b.Not == nil || !reflect.DeepEqual(a.Not, b.Not)) {
		return false
	}
	if !coversBool(a.Mismatch, b.Mismatch) || !coversBool(a.SignedIn, b.SignedIn) {
		return false
	}
	if a.Gateway && !b.Gateway || a.Peers && !b.Peers {
		return false
	}
	return coversField(a.Domain, b.Domain, domainCovers) &&
		coversField(a.Category, b.Category, same) &&
		coversField(a.CIDR, b.CIDR, prefixCovers) &&
		coversField(a.Src, b.Src, prefixCovers) &&
		coversField(a.Port, b.Port, portCovers) &&
		coversField(a.Protocol, b.Protocol, protocolCovers) &&
		coversField(a.Peer, b.Peer, same) &&
		coversField(a.Group, b.Group, same) &&
		coversField(a.User, b.User, same) &&
		coversField(a.UID, b.UID, func(x, y uint32) bool { return x == y }) &&
		coversField(a.Process, b.Process, same) &&
		coversField(a.Unit, b.Unit, same) &&
		coversField(a.Container, b.Container, same) &&
		coversField(a.Schedule, b.Schedule, same) &&
		coversField(a.SeenIn, b.SeenIn, same)
}

// coversBool reports whether a is the value of b. Nil stands for both.
func coversBool(a, b *bool) bool { return a == nil || b != nil && *a == *b }

// coversField reports whether every value of b is within some value of a. An empty list stands for every value.
func coversField[T any](a, b []T, within func(T, T) bool) bool {
	if len(a) == 0 {
		return true
	}
	if len(b) == 0 {
		return false
	}
	for _, y := range b {
		if !slices.ContainsFunc(a, func(x T) bool { return within(x, y) }) {
			return false
		}
	}
	return true
}

func same(a, b string) bool { return a == b }

func domainCovers(a, b string) bool {
	x, xKind, _ := parseDomain(a) // New has parsed it
	y, yKind, _ := parseDomain(b)
	switch xKind {
	case domainTree:
		return isAtOrBelow(y, x)
	case domainBelow:
		return isAtOrBelow(y, x) && (y != x || yKind == domainBelow)
	}
	return y == x && yKind == domainExact
}

func prefixCovers(a, b string) bool {
	outer, _ := parsePrefixes(a) // New has parsed it
	inner, _ := parsePrefixes(b)
	return coversField(outer, inner, func(x, y netip.Prefix) bool { return x.Bits() <= y.Bits() && x.Contains(y.Addr()) })
}

func portCovers(a, b string) bool {
	x, _ := parsePorts(a) // New has parsed it
	y, _ := parsePorts(b)
	return x.first <= y.first && y.last <= x.last
}

func protocolCovers(a, b string) bool { return a == b || a == "udp" && b == "quic" }
