package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/direct"
	"penstock/router/hostnet/firewall"
	"penstock/router/hostnet/internal/rtnl"
)

// errDamaged is the error of a state file that cannot be used: cut short, of another version, or not ours.
var errDamaged = errors.New("state file cannot be used")

// openOrSalvage is openJournal, but it does without a state file that cannot be used: it moves that aside, and collects with salvage what
// is left in the kernel. If the file is lost, or lacks what could not be written on a full disk, it adds what salvageOwn finds; with
// gateway, what salvageForwarding finds.
func openOrSalvage(path string, k *kernel, log *slog.Logger, gateway bool) (*journal, error) {
	j, err := openJournal(path)
	if err == nil && j.foreign && len(j.entries) > 0 {
		log.Warn("the state file is from another boot, host or network namespace: undoing only the files in it and what bears penstock's name",
			"file", path, "lockdown", j.closed != nil)
	}
	damaged := errors.Is(err, errDamaged)
	if damaged {
		aside := fmt.Sprintf("%s.damaged-%d", path, time.Now().Unix())
		if renamed := os.Rename(path, aside); renamed != nil {
			return nil, errors.Join(err, renamed)
		}
		log.Error("the state file cannot be used: going on with what the kernel shows", "moved_to", aside, "err", err)
		j, err = openJournal(path)
	}
	switch v := newView(k); {
	case err != nil:
		return nil, err
	case gateway:
		err = j.addForwarding(v)
	case damaged:
		err = j.replace(v, log)
	default:
		err = j.addOwn(v, log)
	}
	if err != nil {
		return nil, errors.Join(err, j.close())
	}
	return j, nil
}

// replace makes what salvage finds the journal.
func (j *journal) replace(v *view, log *slog.Logger) error {
	entries, closed, err := salvage(v, log)
	if err != nil {
		return err
	}
	j.closed = closed
	return j.save(entries)
}

// addOwn adds what salvageOwn finds and the journal lacks.
func (j *journal) addOwn(v *view, log *slog.Logger) error {
	found, closed, err := salvageOwn(v, j.path, log)
	if errors.Is(err, fs.ErrPermission) {
		return nil // who may not list tables cannot change the host either
	}
	if err != nil { // the journal alone is what there was
		log.Warn("cannot see whether a killed penstock left more than the state file has", "file", j.path, "err", err)
		return nil
	}
	entries := slices.Clone(j.entries)
	for _, e := range found {
		if !inEntries(entries, e.change().key()) {
			entries = append(entries, e)
		}
	}
	if len(entries) == len(j.entries) {
		return nil
	}
	log.Warn("the state file does not have all that a killed penstock left: adding what the kernel shows", "file", j.path, "changes", len(entries)-len(j.entries))
	if j.closed == nil {
		j.closed = closed
	}
	if err := j.save(entries); err != nil {
		log.Warn("cannot write the state file: the kernel still shows these changes to the next penstock", "err", err)
		j.entries = entries
	}
	return nil
}

// addForwarding adds what salvageForwarding finds and the journal lacks: all of it if the state file is lost, and the sysctls if it seems
// to be of another boot. A table of ours shows that the kernel has not booted since. Without the sysctls the host would stay a router.
func (j *journal) addForwarding(v *view) error {
	found, err := salvageForwarding(v)
	if errors.Is(err, fs.ErrPermission) {
		return nil // who may not list tables cannot change the host either
	}
	if err != nil {
		return err
	}
	entries := slices.Clone(j.entries)
	for _, e := range found {
		if !slices.ContainsFunc(entries, func(known entry) bool {
			return known.change().key() == e.change().key() || known.Sysctl != nil && e.Sysctl != nil && known.Sysctl.Path == e.Sysctl.Path
		}) {
			entries = append(entries, e)
		}
	}
	if len(entries) == len(j.entries) {
		return nil
	}
	return j.save(entries)
}

// salvageForwarding finds what a host with Settings.Forward has left: its tables, and the interfaces that these close. It leaves
// alone what keeps a laptop closed, and tables of those that run.
func salvageForwarding(v *view) (entries []entry, err error) {
	tables, err := firewall.ForwardingTables()
	if err != nil {
		return nil, fmt.Errorf("hostnet: list nftables: %w", err)
	}
	names, err := v.names()
	if err != nil {
		return nil, fmt.Errorf("hostnet: %w", err)
	}
	index, runs := make(map[string]int), make(map[string]bool)
	for i, name := range names {
		index[name], runs[firewall.Name(name)] = i, true
	}
	unless := allForward4
	if sysctlOrEmpty(allForward4) == "1" {
		unless = "" // Watch takes what others open out of the table, so the host was a router before, except for these
	}
	for _, t := range tables {
		if runs[t.Name] {
			continue
		}
		entries = append(entries, entry{Nft: &nftTable{Name: t.Name}})
		noted := interfacesIn(t.Notes)
		for _, name := range t.Closed4 {
			entries = append(entries, entry{Sysctl: &sysctl{Path: forward4(name), Old: "0", New: "1", Unless: unless, Index: cmp.Or(noted[name], index[name])}})
		}
		for _, name := range t.Closed6 {
			entries = append(entries, entry{Sysctl: &sysctl{Path: force6(name), Old: "0", New: "1", Index: cmp.Or(noted[name], index[name])}})
		}
	}
	return entries, nil
}

// salvage returns the changes on the host that bear our name. closed is not nil if lockdown is in force, or if nothing tells:
// then the host has booted since, and a host that should be closed must not be open. It logs what cannot be undone any more.
func salvage(v *view, log *slog.Logger) (entries []entry, closed *closure, err error) {
	tables, err := firewall.Tables()
	if err != nil {
		return nil, nil, fmt.Errorf("hostnet: list nftables: %w", err)
	}
	if len(tables) == 0 {
		closed = defaultClosure()
	}
	entries, inForce, err := salvageFrom(v, tables, log)
	if inForce != nil {
		closed = inForce
	}
	return entries, closed, err
}

// salvageOwn returns the changes that a killed penstock with the state file has left, as the notes in its table tell; none if another
// penstock runs, whose routes and rules look the same.
func salvageOwn(v *view, stateFile string, log *slog.Logger) (entries []entry, closed *closure, err error) {
	tables, err := firewall.Tables()
	if err != nil {
		return nil, nil, fmt.Errorf("hostnet: list nftables: %w", err)
	}
	own := slices.DeleteFunc(slices.Clone(tables), func(t firewall.Found) bool { return !slices.Contains(t.Notes, noteOfState(stateFile)) })
	if len(own) == 0 {
		return nil, nil, nil
	}
	runs, err := someRuns(v, tables)
	if err != nil || runs {
		return nil, nil, err
	}
	return salvageFrom(v, own, log)
}

// someRuns reports whether a penstock runs: a process holds the TUN of a table or of a route.
func someRuns(v *view, tables []firewall.Found) (bool, error) {
	links, err := v.links()
	if err != nil {
		return false, fmt.Errorf("hostnet: %w", err)
	}
	held := make(map[int]bool)
	for _, l := range links {
		a := l.Attrs()
		if a.RawFlags&unix.IFF_RUNNING == 0 {
			continue
		}
		held[a.Index] = true
		if slices.ContainsFunc(tables, func(t firewall.Found) bool { return t.Name == firewall.Name(a.Name) }) {
			return true, nil
		}
	}
	_, routes, err := ownRouting(v)
	return slices.ContainsFunc(routes, func(e entry) bool { return held[e.Route.Index] }), err
}

// salvageFrom returns what the tables show, and all rules and routes that bear our name. closed is not nil if one of the tables is that of
// lockdown.
func salvageFrom(v *view, tables []firewall.Found, log *slog.Logger) (entries []entry, closed *closure, err error) {
	var notes []string
	for _, t := range tables {
		entries = append(entries, entry{Nft: &nftTable{Name: t.Name}})
		if t.Lockdown {
			closed = defaultClosure()
			closed.Interface = t.TUN
		}
		notes = append(notes, t.Notes...)
	}
	entries = append(entries, entriesIn(notes, log)...)
	rules, routes, err := ownRouting(v)
	return append(append(entries, rules...), routes...), closed, err
}

// ownRouting returns the rules and routes with our protocol.
func ownRouting(v *view) (ofRules, ofRoutes []entry, err error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := v.rulesOf(family)
		if err != nil {
			return nil, nil, fmt.Errorf("hostnet: %w", err)
		}
		for _, n := range rules {
			if n.Protocol == RouteProtocol {
				ofRules = append(ofRules, entry{Rule: ruleOf(&n, family)})
			}
		}
		routes, err := v.routesOf(family, unix.RT_TABLE_UNSPEC)
		if err != nil {
			return nil, nil, fmt.Errorf("hostnet: %w", err)
		}
		for _, n := range routes {
			if n.Protocol == RouteProtocol {
				r := &route{To: rtnl.Prefix(n.Dst, family), Index: n.LinkIndex, Table: n.Table}
				if n.Type == unix.RTN_UNREACHABLE {
					r.Index, r.Closed = 0, true
				}
				ofRoutes = append(ofRoutes, entry{Route: r})
			}
		}
	}
	return ofRules, ofRoutes, nil
}

// defaultClosure closes the host where nothing tells how it was closed.
func defaultClosure() *closure {
	return &closure{Interface: "pen0", Mark: direct.DefaultMark, MarkMask: direct.DefaultMarkMask}
}

// lastClosure returns how a state file, which cannot be locked or written, says that the host is closed, or nil if it says that it is
// not. It is not nil if the file cannot be read: a host that should be closed must not be open.
func lastClosure(stateFile string) *closure {
	j := &journal{path: stateFile}
	if err := j.load(); err != nil {
		return defaultClosure()
	}
	return j.closed
}
