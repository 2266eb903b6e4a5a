package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// regions gives the gateways of a fleet their regions, before they start.
func (f *fleetOf) regions(t *testing.T, names ...string) {
	t.Helper()
	for i, name := range names {
		file := fmt.Sprintf("gw%d.yaml", i+1)
		f.edit(t, file, fmt.Sprintf("gateway: gw%d\n", i+1), fmt.Sprintf("gateway: gw%d\n  region: %s\n", i+1, name))
	}
}

// laptop: penstock === WireGuard ==+===> gateway 1, eu --+-- intranet
//
//	+=== far ===> gateway 2, us --+
func TestOurClientGoesToTheNearGateway(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.regions(t, "eu", "us")
	f.publish(t)
	f.up(t)
	if _, err := f.Internet.Impair("gw2", netlab.Impairment{Delay: time.Second / 2}); errors.Is(err, netlab.ErrUnavailable) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	f.edit(t, "corp.conf", "Endpoint = 198.51.100.10:51820", "Endpoint = "+f.outer[1]+":51820\nEndpoint = 198.51.100.10:51820")
	f.laptop = start(t, f.Laptop, f.path("laptop.yaml"))
	f.connected(t)
	f.untilCarrying(t)
	f.until(t, 0, 1)
	if n := f.sessions(t, 1); n != 0 {
		t.Errorf("the far gateway has sessions: %d, want none", n)
	}
	if r := f.gateways[0].cli(t, "fleet", "status"); !strings.Contains(r.stdout, " eu ") || !strings.Contains(r.stdout, " us ") || !strings.Contains(r.stdout, "100%") {
		t.Errorf("got %s, want the regions and who has the load", r)
	}
	f.gateways[0].kill(t)
	eventually(t, "the far gateway carries", func() error { return f.carriesOnce(requestTime) })
	f.until(t, 1, 1)
}

// laptop: penstock === WireGuard ===> gateway 1 or 2, drained. The client has moved there because the other one was killed, so it has
// not just come.
func TestOurClientLeavesAGatewayThatDrains(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.publish(t)
	f.up(t)
	f.edit(t, "corp.conf", "Endpoint = 198.51.100.10:51820", "Endpoint = 198.51.100.10:51820\nEndpoint = "+f.outer[1]+":51820")
	f.laptop = start(t, f.Laptop, f.path("laptop.yaml"))
	f.connected(t)
	f.untilCarrying(t)
	dead := f.only(t)
	f.gateways[dead].kill(t)
	eventually(t, "the other gateway carries", func() error { return f.carriesOnce(requestTime) })
	f.gateways[dead].start(t)
	f.untilAll(t, "serving", 1)
	here := f.only(t)
	if here == dead {
		t.Fatal("the client is back where it was")
	}
	r := f.ask(t)
	f.gateways[here].must(t, "drain", "--for", "20s")
	f.until(t, 1-here, 1)
	r.answered(t, 5)
	failed, gap := r.end()
	t.Logf("the longest time without an answer while a gateway was drained: %v", gap)
	if failed > 0 {
		t.Errorf("while a gateway was drained, requests that failed twice: %d; the longest time without an answer: %v", failed, gap)
	}
	f.until(t, here, 0)
}

// burst is peers that start at once, all at gateway 1.
type burst struct {
	*fleetOf
	addresses []string
}

// startBurst starts wireguard-go for each peer on the laptop, as wg0, wg1 and so on. They call, and have nothing to say.
func startBurst(t *testing.T, f *fleetOf, peers int) *burst {
	t.Helper()
	b := &burst{fleetOf: f}
	entries := "peers:\n"
	for i := range peers {
		private, public := keyPair(t)
		b.addresses = append(b.addresses, fmt.Sprintf("10.99.0.%d", 100+i))
		entries += fmt.Sprintf("  - {name: peer%d, public_key: %q, allowed_ips: [%s/32], groups: [staff]}\n", i, public, b.addresses[i])
		conf := strings.ReplaceAll(f.read(t, "corp.conf"), values(f.read(t, "corp.conf"), "PrivateKey")[0], private)
		conf = conf[:strings.Index(conf, "Address")] + conf[strings.Index(conf, "\n[Peer]"):]
		f.write(t, fmt.Sprintf("wg%d.bare", i), conf+"PersistentKeepalive = 25\n")
	}
	f.write(t, "site/peers.yaml", entries)
	f.publish(t)
	f.up(t)
	for i := range peers {
		cmd := f.Laptop.Command(context.WithoutCancel(t.Context()), built("wireguard"), "-f", fmt.Sprint("wg", i))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	for i := range peers {
		name := fmt.Sprint("wg", i)
		eventually(t, "wireguard-go takes its configuration", func() error {
			if r := run(t, f.Laptop, program(t, "wg"), "setconf", name, f.path(name+".bare")); r.code != 0 {
				return fmt.Errorf("wg setconf: %s", r)
			}
			return nil
		})
	}
	for i := range peers {
		if r := run(t, f.Laptop, program(t, "ip"), "link", "set", fmt.Sprint("wg", i), "mtu", "1420", "up"); r.code != 0 {
			t.Fatal(r)
		}
	}
	return b
}

// at returns the peers whose wireguard-go sends to a gateway.
func (b *burst) at(t *testing.T, gateway int) (list []int) {
	t.Helper()
	r := run(t, b.Laptop, program(t, "wg"), "show", "all", "endpoints")
	for i := range b.addresses {
		for line := range strings.Lines(r.stdout) {
			if word := strings.Fields(line); len(word) == 3 && word[0] == fmt.Sprint("wg", i) && word[2] == b.outer[gateway]+":51820" {
				list = append(list, i)
			}
		}
	}
	return list
}

// carries wants that a peer reaches the intranet.
func (b *burst) carries(t *testing.T, peer int) {
	t.Helper()
	name := fmt.Sprint("wg", peer)
	for _, step := range [][]string{{"addr", "add", b.addresses[peer] + "/32", "dev", name}, {"route", "replace", "10.20.0.0/24", "dev", name, "src", b.addresses[peer]}} {
		if r := run(t, b.Laptop, program(t, "ip"), step...); r.code != 0 {
			t.Fatal(r)
		}
	}
	eventually(t, fmt.Sprintf("peer %d reaches the intranet", peer), func() error { return b.carriesOnce(requestTime) })
}

// laptop: 30 x wireguard-go === WireGuard ===> gateway 1, eu --+-- intranet
//
//	gateway 2, eu --+
//	gateway 3, us --+
func TestPeersThatComeToOneGatewaySpread(t *testing.T) {
	t.Parallel()
	const all, least = 30, 12
	f := newFleet(t, 3)
	f.regions(t, "eu", "eu", "us")
	b := startBurst(t, f, all)
	begun := time.Now()
	eventuallyWithin(t, fleetPatience, "two gateways have 40 % of the peers each", func() error {
		first, second := f.sessions(t, 0), f.sessions(t, 1)
		if first < least || second < least || first+second != all {
			return fmt.Errorf("gateway 1 has %d and gateway 2 has %d", first, second)
		}
		return nil
	})
	t.Logf("after %v they have %d and %d", time.Since(begun), f.sessions(t, 0), f.sessions(t, 1))
	if n := f.sessions(t, 2); n != 0 {
		t.Errorf("the gateway of the other region has %d peers, want none", n)
	}
	for range 2 {
		stayed, went := b.at(t, 0), b.at(t, 1)
		if len(stayed) < least || len(went) < least {
			t.Fatalf("the peers send to gateway 1: %v, and to gateway 2: %v", stayed, went)
		}
		b.carries(t, stayed[0])
		b.carries(t, went[0]) // the address stays, and the route is its
		b.carries(t, went[len(went)-1])
		before := fmt.Sprint(stayed, went)
		r := f.ask(t)
		r.answered(t, 100)
		if failed, gap := r.end(); failed > 0 {
			t.Errorf("requests through a peer that was handed over: %d failed, the longest time without an answer was %v", failed, gap)
		}
		if now := fmt.Sprint(b.at(t, 0), b.at(t, 1)); now != before {
			t.Errorf("peers moved once more: from %s to %s", before, now)
		}
		for _, i := range []int{stayed[0], went[0], went[len(went)-1]} {
			if r := run(t, f.Laptop, program(t, "ip"), "addr", "flush", "dev", fmt.Sprint("wg", i)); r.code != 0 {
				t.Fatal(r)
			}
		}
	}
}
