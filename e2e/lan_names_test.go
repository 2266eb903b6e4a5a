package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// lanRecords are what the access network's resolver knows. It is not honest about all of it.
var lanRecords = []string{
	"nas.lan.example. 60 IN A 192.168.50.20",
	"20.50.168.192.in-addr.arpa. 60 IN PTR nas.lan.example.",
	"rebound.lan.example. 60 IN A 10.20.0.10",
	"loop.lan.example. 60 IN A 127.0.0.1",
	"casino.lan.example. 60 IN A 192.168.50.20",
	"wiki.corp.example. 60 IN A 192.168.50.20",
	"evil.com. 60 IN A 192.168.50.20",
	"20.51.168.192.in-addr.arpa. 60 IN PTR other.lan.example.",
}

// laptop [pen0 -> penstock] lan0 --- [resolver of lan.example] access === WireGuard ===> [penstock] gateway --- intranet
func TestNamesOfTheLANAreAskedThere(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence, lan string
		lockdown      bool
	}{
		{"lan: allow", "allow", false},
		{"lan: allow under lockdown", "allow", true},
		{"lan: block", "block", false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "rules:\n", "rules:\n  - {name: no-casino, match: {domain: casino.lan.example}, do: block}\n",
				"listen:\n", fmt.Sprintf("always_on: {lan: %s, lockdown: %v}\nlisten:\n", row.lan, row.lockdown))
			if err := w.AccessDNS.Add(lanRecords...); err != nil {
				t.Fatal(err)
			}
			if err := w.Access.AddAddr("lan", prefix("192.168.50.20/24")); err != nil {
				t.Fatal(err)
			}
			resolver := "nameserver 192.168.50.1\nsearch lan.example com corp.example\n"
			if err := w.Laptop.WriteFile("/etc/resolv.conf", []byte(resolver)); err != nil {
				t.Fatal(err)
			}
			w.up(t)
			if row.lan == "block" {
				tryAll(t, w.Laptop, []attempt{
					{"its names do not exist", "getent hosts nas", "", []int{2}},
					{"nor its addresses", "getent hosts 192.168.50.20", "", []int{2}},
				})
				w.nothingInClear(t)
				return
			}
			eventually(t, "the LAN's names are known", func() error {
				if r := run(t, w.Laptop, "getent", "hosts", "nas"); !strings.Contains(r.stdout, "192.168.50.20") {
					return fmt.Errorf("got %s", r)
				}
				return nil
			})
			tryAll(t, w.Laptop, []attempt{
				{"a host by its whole name", "dig +short nas.lan.example", "192.168.50.20", nil},
				{"an address", "getent hosts 192.168.50.20", "nas.lan.example", nil},
				{"a site is asked elsewhere", "curl -4 http://news.example/", "this is news.example\n", nil},
				{"an address of the intranet is no host of the LAN", "getent hosts rebound.lan.example", "", []int{2}},
				{"nor is this host", "getent ahostsv4 loop.lan.example", "", []int{2}},
				{"a blocked name stays blocked", "getent hosts casino.lan.example", "", []int{2}},
				{"a name of the intranet is asked there", "getent hosts wiki.corp.example", "wiki.corp.example", nil},
				{"a public suffix is no LAN", "getent hosts evil.com", "", []int{2}},
				{"another network's addresses are not the LAN's", "getent hosts 192.168.51.20", "", []int{2}},
			})
			for _, q := range w.AccessDNS.Queries() {
				if q.Name != "lan.example" && !strings.HasSuffix(q.Name, ".lan.example") && !strings.HasSuffix(q.Name, ".50.168.192.in-addr.arpa") {
					t.Errorf("the LAN's resolver was asked for %s", q.Name)
				}
			}
			// Without the LAN, its names are forgotten at once.
			asked := len(w.AccessDNS.Queries())
			w.edit(t, "laptop.yaml", "lan: allow", "lan: block")
			if r := w.laptop.cli(t, "reload"); r.code != 0 {
				t.Fatalf("reload: %s", r)
			}
			eventually(t, "the LAN's names are gone", func() error {
				asked = len(w.AccessDNS.Queries())
				if r := run(t, w.Laptop, "getent", "hosts", "nas"); r.code != 2 {
					return fmt.Errorf("got %s", r)
				}
				return nil
			})
			if n := len(w.AccessDNS.Queries()); n != asked {
				t.Errorf("the LAN's resolver was asked %d times more", n-asked)
			}
			w.laptop.stop(t, os.Interrupt)
		})
	}
}
