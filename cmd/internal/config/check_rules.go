package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/cmd/internal/config/profile"
	"penstock/policy/spelling"
)

// starter are the categories with a built-in list, which rules may use without naming a list of their own. A test compares
// them with policy/blocklist; importing that package would make this one more than plain data.
var starter = []string{"ads", "adult", "doh", "gambling", "malware", "social"}

// BuiltIn returns the categories that need no list, in alphabetical order.
func BuiltIn() []string { return slices.Clone(starter) }

// ruleChecker checks rules, their tests and the categories that they name.
type ruleChecker struct{ *checker }

// categories checks that every category has lists, and every list a readable file or a URL.
func (k ruleChecker) categories() {
	for _, name := range slices.Sorted(maps.Keys(k.Categories)) {
		category, path := k.Categories[name], "categories."+name
		k.name(path, "category", name)
		if len(category.Lists) == 0 && !slices.Contains(starter, name) {
			k.fault(path, "add lists; built in are "+strings.Join(starter, ", "), "category %s has no lists and is not built in", name)
		}
		k.lists(path+".lists", category.Lists)
		k.lists(path+".allow", category.Allow)
	}
}

func (k ruleChecker) lists(path string, lists []List) {
	for i, list := range lists {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case (list.URL == "") == (list.File == ""):
			k.fault(at, "write exactly one", "a list has a url or a file")
		case list.File != "":
			k.listFile(at+".file", list.File)
		case !isWebURL(list.URL):
			k.fault(at+".url", "write https://HOST/PATH", "the list's url is %q", list.URL)
		}
		if list.Refresh < time.Second {
			k.fault(at+".refresh", "write 1s or more", "%s.refresh is %v", at, list.Refresh)
		}
		k.via(at+".via", list.Via)
	}
}

// rules checks that every rule can be reached and refers only to what exists.
func (k ruleChecker) rules() {
	if len(k.Rules) == 0 {
		k.fault("rules", "end them with a rule without match, for example {name: rest, do: direct}", "there are no rules")
		return
	}
	names := make(map[string]Position)
	for i, rule := range k.Rules {
		path := fmt.Sprintf("rules[%d]", i)
		k.name(path+".name", "rule", rule.Name)
		if first, taken := names[rule.Name]; taken {
			k.fault(path+".name", "choose another name", "there is a rule %q already, at %s", rule.Name, first)
		}
		names[rule.Name] = rule.Pos
		last := i == len(k.Rules)-1
		switch {
		case rule.Match == nil && !last:
			k.fault(path, "move it to the end, or give it a match", "rule %s matches everything: no rule after it can decide", rule.Name)
		case rule.Match != nil && last:
			k.fault(path, "add one, for example {name: rest, do: direct}", "the last rule must have no match, so that every flow is decided")
		}
		if rule.Match != nil {
			k.match(path+".match", *rule.Match)
			k.gateway(path+".match", *rule.Match)
			k.peers(path, *rule.Match, rule.Do)
		}
		k.do(path+".do", rule.Do)
	}
}

// match checks the values that a rule compares with.
func (k ruleChecker) match(path string, m Match) {
	if m.isEmpty() {
		k.fault(path, "add a condition, or remove match", "%s has no condition", path)
	}
	each := func(key string, values []string, check func(at, value string)) {
		for i, value := range values {
			check(fmt.Sprintf("%s.%s[%d]", path, key, i), value)
		}
	}
	each("domain", m.Domain, func(at, value string) {
		if !isDomain(value) {
			k.fault(at, "write a name such as corp.example, *.corp.example or =corp.example", "the domain is %q", value)
		}
	})
	cidr := func(at, value string) {
		if !isCIDR(value) {
			k.fault(at, "write a network such as 10.0.0.0/8, an address, or private", "the network is %q", value)
		}
	}
	each("cidr", m.CIDR, cidr)
	each("src", m.Src, cidr)
	each("port", m.Port, func(at, value string) {
		if !isPortRange(value) {
			k.fault(at, "write a number from 1 to 65535, or a range such as 6000-6063", "the port is %q", value)
		}
	})
	k.program(path, m)
	each("category", m.Category, func(at, value string) {
		k.oneOf(at, value, "category", "categories", append(slices.Sorted(maps.Keys(k.Categories)), starter...))
	})
	each("peer", m.Peer, func(at, value string) {
		k.peerName(at, value)
	})
	each("group", m.Group, func(at, value string) { k.name(at, "group", value) }) // it may have no members: see emptyGroups
	if m.Not != nil {
		k.match(path+".not", *m.Not)
	}
}

// isDomain reports whether s is a name, with what may stand before it.
func isDomain(s string) bool {
	name := strings.TrimPrefix(strings.TrimPrefix(s, "*."), "=")
	return name != "" && !strings.ContainsAny(name, "*/: ")
}

// gateway checks that a rule which opens this machine's own services says which.
func (k ruleChecker) gateway(path string, m Match) {
	if m.Gateway && len(m.Port) == 0 {
		k.fault(path+".gateway", "add a port, for example port: 22", "gateway: true opens services of this machine, and the rule does not say which")
	}
	for not := m.Not; not != nil; not = not.Not {
		path += ".not"
		if not.Gateway {
			k.fault(path+".gateway", "remove it: a rule without gateway never opens services of this machine", "gateway cannot be negated")
		}
	}
}

// peers checks a rule whose destinations are peers.
func (k ruleChecker) peers(path string, m Match, d Do) {
	at := path + ".match.peers"
	switch {
	case !m.Peers:
	case k.Listen.WireGuard == nil:
		k.fault(at, "remove the rule, or add listen: {wireguard: ...}", "peers: true is for the peers of a gateway, and this is none")
	case m.Gateway:
		k.fault(at, "make a rule for each", "no destination is both a peer and this machine")
	case d.Action == "dns", d.Action == "via":
		k.fault(path+".do", "write direct", "the way to a peer is direct, from the gateway to the peer, and the rule says %s", d)
	}
	for not, at := m.Not, path+".match.not"; not != nil; not, at = not.Not, at+".not" {
		if not.Peers {
			k.fault(at+".peers", "remove it: a rule without peers never opens one", "peers cannot be negated")
		}
	}
}

// peerName checks the name of a peer.
func (k ruleChecker) peerName(at, name string) {
	var names []string
	for _, p := range k.Peers.All() {
		if p.Name == name {
			return
		}
		names = append(names, p.Name)
	}
	if !k.absent(name) {
		k.oneOf(at, name, "peer", "peers", names)
	}
}

// emptyGroups returns a warning for each group that is named and no peer is in. That is no fault, so that somebody can be the first in
// a group, and the last, but it may be a misspelt name.
func emptyGroups(c *Config) []string {
	members := make(map[string]bool)
	for _, p := range c.Peers.All() {
		for _, group := range p.Groups {
			members[group] = true
		}
	}
	known := slices.Sorted(maps.Keys(members))
	var list []string
	warn := func(path, group, what string) {
		warning := fmt.Sprintf("%s: no peer is in group %s, which %s", c.Position(path), group, what)
		if near := spelling.Nearest(group, known); near != "" {
			warning += fmt.Sprintf(": did you mean %q?", near)
		}
		list = append(list, warning)
	}
	for _, group := range slices.Sorted(maps.Keys(c.GroupLimits)) {
		if path := "group_limits." + group; !members[group] {
			list = append(list, fmt.Sprintf("%s: no peer is in group %s, which %s limits", c.Position(path), group, path))
		}
	}
	if c.SignIn != nil {
		for i, group := range c.SignIn.Required {
			if group != everyPeer && !members[group] {
				warn(fmt.Sprintf("sign_in.required[%d]", i), group, "has to sign in")
			}
		}
		return list // whoever signs in may be in the groups of rules
	}
	for i, rule := range c.Rules {
		path := fmt.Sprintf("rules[%d].match", i)
		for m := rule.Match; m != nil; m, path = m.Not, path+".not" {
			for j, group := range m.Group {
				if !members[group] {
					warn(fmt.Sprintf("%s.group[%d]", path, j), group, "rule "+rule.Name+" names")
				}
			}
		}
	}
	return list
}

// isEmpty reports whether the match has no condition.
func (m Match) isEmpty() bool {
	return len(m.Domain)+len(m.Category)+len(m.CIDR)+len(m.Src)+len(m.Port)+len(m.Protocol)+len(m.Peer)+len(m.Group)+
		len(m.User)+len(m.UID)+len(m.Process)+len(m.Unit)+len(m.Container)+len(m.Schedule)+len(m.SeenIn) == 0 && m.SignedIn == nil && m.Mismatch == nil && !m.Gateway && !m.Peers && m.Not == nil
}

// do checks that the parts of a rule's do fit together.
func (k ruleChecker) do(path string, d Do) {
	isVia, isBlock := d.Action == "via", d.Action == "block" || d.Action == "drop"
	switch {
	case d.Action == "":
		k.fault(path, "write block, drop, direct, dns or {via: TRANSPORT}", "%s does not say what to do", path)
	case isVia && d.Via == "":
		k.fault(path, "add via: TRANSPORT", "%s names no transport", path)
	case !isVia && d.Via != "":
		k.fault(path, "keep one of them", "%s is both %s and via %s", path, d.Action, d.Via)
	}
	if d.Via != "" {
		k.via(path+".via", d.Via)
	}
	if d.Action == "drop" && d.How == "refuse" {
		k.fault(path+".how", "keep one of them", "%s is both drop, which is silence, and how: refuse", path)
	}
	if d.How != "" && !isBlock {
		k.fault(path+".how", "remove it, or make the action block", "how is for blocks, and %s does not block", path)
	}
	for key, value := range map[string]string{"fallback": d.Fallback, "trusted": d.Trusted, "unrouted": d.Unrouted} {
		if value != "" && !isVia {
			k.fault(path+"."+key, "remove it, or add via: TRANSPORT", "%s is for flows that go through a transport", key)
		}
	}
}

// tests checks what the configuration's own tests refer to. Whether they hold is known once the rules are compiled.
func (k ruleChecker) tests() {
	for i, test := range k.Tests {
		path := fmt.Sprintf("tests[%d]", i)
		if test.From != "" {
			k.peerName(path+".from", test.From)
		}
		if test.To == "" {
			k.fault(path+".to", "write a URL, host or address", "the test has no destination")
		}
		k.sender(path, test)
		k.do(path+".expect", test.Expect)
	}
}

// isPortRange reports whether s is a port, or two with a dash between them.
func isPortRange(s string) bool {
	low, high, isRange := strings.Cut(s, "-")
	from, err := strconv.ParseUint(low, 10, 16)
	if err != nil || from == 0 {
		return false
	}
	if !isRange {
		return true
	}
	to, err := strconv.ParseUint(high, 10, 16)
	return err == nil && from <= to
}

// listFile checks that a list can be read.
func (k ruleChecker) listFile(path, file string) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.fault(path, "correct the path, or remove the list", "there is no list %s", file)
		return
	case err == nil && !info.Mode().IsRegular(): // opening a pipe could wait for ever
		k.fault(path, "name a file", "the list %s is not a regular file", file)
		return
	}
	f, err := os.Open(file)
	if err != nil {
		k.fault(path, "run this as its owner or as root", "list: %v", err)
		return
	}
	f.Close()
}

// isCIDR reports whether s is a network, an address, or the word private.
func isCIDR(s string) bool {
	if s == "private" {
		return true
	}
	_, err := profile.ParsePrefix(s)
	return err == nil
}
