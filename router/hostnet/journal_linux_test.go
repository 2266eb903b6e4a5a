package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/hosttest"
	"penstock/router/hostnet/resolver"
)

func TestJournalKeepsEveryKindOfChange(t *testing.T) {
	changes := []change{
		&nftTable{Name: "penstock_pen0"},
		&sysctl{Path: "net/ipv4/conf/all/arp_ignore", Old: "0", New: "2"},
		&linkUp{Name: "pen0", Index: 3, MTU: 1400, WasMTU: 1500, WasQueue: 500, WasUp: true},
		&address{Name: "pen0", Index: 3, Prefix: netip.MustParsePrefix("10.77.0.1/24"), NoPrefixRoute: true},
		&route{To: netip.MustParsePrefix("::/0"), Index: 3, Table: 7077},
		&rule{Family: unix.AF_INET, Priority: 5000, Mark: 1, Mask: 1, NotMarked: true, From: "pen0", To: netip.MustParsePrefix("10.0.0.0/8"), SrcPort: 68, DstPort: 67, Table: 254, SkipDefault: true},
		&resolvConf{&resolver.File{Path: "/etc/resolv.conf", Link: "../run/x", Content: []byte("nameserver \xff\n"), Mode: 0o640, UID: 1, GID: 2}},
		&resolvedLink{&resolver.Link{Name: "pen0", Index: 3, DNS: []netip.Addr{netip.MustParseAddr("10.77.0.1")}, Domains: []string{"corp.example"}}},
	}
	path := filepath.Join(t.TempDir(), "state")
	j, err := openJournal(path)
	hosttest.Must(t, err)
	var entries []entry
	for _, c := range changes {
		entries = append(entries, entryOf(c))
	}
	hosttest.Must(t, j.save(entries))
	hosttest.Must(t, j.close())
	j, err = openJournal(path)
	hosttest.Must(t, err)
	for i, c := range changes {
		if got := j.entries[i].change(); !reflect.DeepEqual(got, c) {
			t.Errorf("%s: got %+v, want %+v", c, got, c)
		}
	}
	if fields := reflect.TypeFor[entry]().NumField(); fields != len(changes) {
		t.Errorf("entry has %d kinds, the test %d", fields, len(changes))
	}
	hosttest.Must(t, j.save(nil))
	hosttest.Must(t, j.close())
	if left, _ := filepath.Glob(path + "*"); len(left) != 0 {
		t.Errorf("after the last change was undone: got files %v, want none", left)
	}
}

func TestJournalOfAnEarlierBootKeepsFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	raw, err := json.Marshal(journalFile{Version: journalVersion, Boot: "another boot", Entries: []entry{
		entryOf(&sysctl{Path: "net/ipv4/conf/all/arp_ignore", Old: "0", New: "2"}),
		entryOf(&resolvConf{&resolver.File{Path: "/nowhere/resolv.conf"}}),
	}})
	hosttest.Must(t, err)
	hosttest.Must(t, os.WriteFile(path, raw, 0o600))
	j, err := openJournal(path)
	hosttest.Must(t, err)
	defer j.close()
	if len(j.entries) != 1 || j.entries[0].ResolvConf == nil {
		t.Errorf("got %+v, want the resolver file alone", j.entries)
	}
}

func TestADamagedJournalIsAnErrorThatSaysWhy(t *testing.T) {
	for content, want := range map[string]string{
		"":                             "damaged",
		"{":                            "damaged",
		`{"version":2}`:                "version 2",
		`{"version":1,"entries":[{}]}`: "unknown kind",
	} {
		path := filepath.Join(t.TempDir(), "state")
		hosttest.Must(t, os.WriteFile(path, []byte(content), 0o600))
		if _, err := openJournal(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", content, err, want)
		}
	}
	if _, err := Cleanup(filepath.Join(t.TempDir(), "none"), nil); err != nil {
		t.Errorf("Cleanup of nothing: got %v, want nil", err)
	}
}

func TestJournalLockIsHeldByOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	j, err := openJournal(path)
	hosttest.Must(t, err)
	if _, err := openJournal(path); !errors.Is(err, ErrInUse) {
		t.Errorf("second: got %v, want ErrInUse", err)
	}
	hosttest.Must(t, j.close())
	j, err = openJournal(path)
	hosttest.Must(t, err)
	hosttest.Must(t, j.close())
}

func TestPlanClosesBeforeItOpens(t *testing.T) {
	c, err := Config{Interface: "pen0", StateFile: "x"}.withDefaults()
	hosttest.Must(t, err)
	f := facts{ipv6: true, arpIgnore: "0"}
	s := everything()
	plan := planKernel(c, s, f, nil)
	order := func(what func(*rule) bool) int {
		return slices.IndexFunc(plan, func(c change) bool { r, ok := c.(*rule); return ok && what(r) })
	}
	closed := order(func(r *rule) bool { return r.Mask == 0 && r.Table == 0 })
	exempt := order(func(r *rule) bool { return !r.NotMarked && r.Mask != 0 && r.Table == unix.RT_TABLE_MAIN })
	route4 := slices.IndexFunc(plan, func(c change) bool { r, ok := c.(*route); return ok && r.Closed })
	captures := order(func(r *rule) bool { return r.NotMarked && r.Table == c.Table })
	lan := order(func(r *rule) bool { return r.To.IsValid() })
	if plan[0].stage() != stageNft || exempt > closed || closed > lan || route4 < 0 || route4 > captures {
		t.Errorf("order: nft first, our mark's rule (%d) before the unreachable one (%d), exceptions (%d) last, the unreachable route (%d) before what leads there (%d)",
			exempt, closed, lan, route4, captures)
	}
	if !slices.IsSortedFunc(plan, func(a, b change) int { return int(a.stage()) - int(b.stage()) }) {
		t.Error("plan is not in the order of its stages, so undo would not be its reverse")
	}
	keys := make(map[any]bool)
	for _, c := range plan {
		if keys[c.key()] {
			t.Errorf("%s is in the plan twice", c)
		}
		keys[c.key()] = true
	}
}

func TestPlanOfAPartClosesThatPartAlone(t *testing.T) {
	c, err := Config{Interface: "pen0", StateFile: "x"}.withDefaults()
	hosttest.Must(t, err)
	for _, v4 := range []bool{true, false} {
		s := Settings{Capture: prefixes("10.0.0.0/8", "192.168.7.0/24")}
		if !v4 {
			s.Capture = prefixes("fd10::/16", "fd19::/64")
		}
		var closed, routes []netip.Prefix
		for _, c := range planKernel(c, s, facts{ipv6: true}, nil) {
			switch c := c.(type) {
			case *rule:
				if c.NotMarked && (c.Family == unix.AF_INET) != v4 {
					t.Errorf("of the other family nothing is captured, but there is %s", c)
				}
				if c.Table == 0 && c.Mask == 0 && (!v4 || c.Protocol == unix.IPPROTO_UDP) {
					closed = append(closed, c.To)
				}
			case *route:
				if c.Closed {
					routes = append(routes, c.To)
				}
			}
		}
		if !slices.Equal(closed, s.Capture) {
			t.Errorf("unreachable: got %v, want %v", closed, s.Capture)
		}
		if v4 && !slices.Equal(routes, s.Capture) {
			t.Errorf("unreachable routes: got %v, want %v", routes, s.Capture)
		}
	}
}

func TestEveryFilterSettingChangesTheTable(t *testing.T) {
	c, err := Config{Interface: "pen0", StateFile: "x"}.withDefaults()
	hosttest.Must(t, err)
	seen := make(map[string]string)
	for name, set := range map[string]func(*Settings, *facts){
		"as it is":         func(*Settings, *facts) {},
		"lockdown":         func(s *Settings, _ *facts) { s.Lockdown = true },
		"no LAN":           func(s *Settings, _ *facts) { s.LAN = false },
		"another LAN":      func(_ *Settings, f *facts) { f.neighbours = []neighbour{{2, netip.MustParsePrefix("10.9.0.1/16")}} },
		"another address":  func(s *Settings, _ *facts) { s.Addresses = s.Addresses[:1] },
		"less captured":    func(s *Settings, _ *facts) { s.Capture = s.Capture[:1] },
		"nothing excluded": func(s *Settings, _ *facts) { s.Exclude = nil },
		"strict filter":    func(_ *Settings, f *facts) { f.strictReverse = true },
	} {
		s, f := everything(), facts{}
		set(&s, &f)
		table := fmt.Sprintf("%+v", planFilter(c, s, f).table)
		if other, ok := seen[table]; ok {
			t.Errorf("%q and %q make the same table", name, other)
		}
		seen[table] = name
	}
}

func TestWhatAKilledWriterLeftIsRemoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "host.json")
	kept := []string{".host.json.swp", ".host.json.", ".other.json.12", "host.json.34", ".host.json.1.bak"}
	for _, name := range append([]string{".host.json.1234", ".host.json.4294967295"}, kept...) {
		hosttest.Must(t, os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o600))
	}
	j, err := openJournal(path)
	hosttest.Must(t, err)
	hosttest.Must(t, os.WriteFile(filepath.Join(dir, ".host.json.5678"), nil, 0o600)) // is being written
	if _, err := openJournal(path); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
	hosttest.Must(t, j.close())
	var left []string
	entries, err := os.ReadDir(dir)
	hosttest.Must(t, err)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	want := append(kept, ".host.json.5678")
	slices.Sort(want)
	if !slices.Equal(left, want) {
		t.Errorf("got %v, want %v", left, want)
	}
}
