package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"penstock/e2e/netlab"
)

// fleetPage is a world in which somebody follows docs/fleet.md.
type fleetPage struct {
	*fleetOf
	here *strings.Replacer // the page's paths and addresses
}

// text returns a block of the page.
func (f *fleetPage) text(t *testing.T, mark string) string {
	t.Helper()
	return f.here.Replace(pageBlock(t, "fleet.md", mark))
}

// etc is where gateway i has what the page puts into /etc/penstock.
func (f *fleetPage) etc(i int) string { return f.path(fmt.Sprintf("muc-%d", i+1)) }

// follow runs each line of a block on a host, in a folder, and returns what it printed. All must end with the code.
func (f *fleetPage) follow(t *testing.T, h *netlab.Host, dir, socket, mark string, code int) string {
	t.Helper()
	var printed strings.Builder
	for line := range strings.Lines(f.text(t, mark)) {
		line = strings.ReplaceAll(strings.TrimPrefix(strings.TrimSpace(line), "sudo "), "/etc/penstock", dir)
		r := run(t, h, "env", "PATH="+filepath.Dir(built("penstock"))+":"+os.Getenv("PATH"), "PENSTOCK_SOCKET="+socket, "sh", "-c", `cd "$0" && `+line, dir)
		if r.code != code {
			t.Fatalf("%s: %s", line, r)
		}
		t.Logf("$ %s\n%s%s", line, r.stdout, r.stderr)
		printed.WriteString(r.stdout)
	}
	return printed.String()
}

// operate runs a block as the operator.
func (f *fleetPage) operate(t *testing.T, mark string) string {
	t.Helper()
	return f.follow(t, f.Internet, f.path("operator"), f.path("none.sock"), mark, 0)
}

// on runs a block on gateway i.
func (f *fleetPage) on(t *testing.T, i int, mark string, code int) string {
	t.Helper()
	socket := f.path("none.sock")
	if i < len(f.gateways) {
		socket = f.gateways[i].socket
	}
	return f.follow(t, f.hosts[i], f.etc(i), socket, mark, code)
}

// key returns the public key that keygen has printed.
func key(t *testing.T, printed string) string {
	t.Helper()
	found := regexp.MustCompile(`(?m)^(ed25519:|age1)\S+$`).FindString(printed)
	if found == "" {
		t.Fatalf("there is no public key in %q", printed)
	}
	return found
}

// laptop: wireguard-go === WireGuard ===> three gateways <- the commands of docs/fleet.md -> the folder of the store
func TestThePageAboutFleetsIsTrue(t *testing.T) {
	t.Parallel()
	f := &fleetPage{fleetOf: &fleetOf{world: newWorld(t)}}
	f.hosts, f.outer = []*netlab.Host{f.Gateway}, []string{netlab.GatewayIPv4}
	for i := 2; i <= 3; i++ {
		more, err := f.AddGateway(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		f.hosts, f.outer = append(f.hosts, more.Host), append(f.outer, more.IPv4)
	}
	for _, dir := range []string{"operator", "muc-1", "muc-2", "muc-3", "laptop", "store"} {
		if err := os.Mkdir(f.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	swaps := []string{"/srv/fleet", f.path("store"), "9.9.9.9", "203.0.113.53", "10.20.0.53", "10.20.0.10", "vpn.example", netlab.GatewayIPv4}
	f.here = strings.NewReplacer(swaps...)
	for i := range f.hosts {
		swaps = append(swaps, fmt.Sprintf("age1GATEWAY%d", i+1), key(t, f.on(t, i, "sh fleet-gateway", 0)))
	}
	operator := key(t, f.operate(t, "sh fleet-operator"))
	swaps = append(swaps, "ed25519:OPERATOR", operator)
	f.here = strings.NewReplacer(swaps...)
	for name, mark := range map[string]string{"site.yaml": "yaml fleet-site", "gateway.yaml": "yaml fleet-shared"} {
		f.write(t, "operator/site/"+name, f.text(t, mark))
	}
	f.operate(t, "sh fleet-publish")
	for i, h := range f.hosts {
		own := strings.NewReplacer("gateway: muc-1", fmt.Sprintf("gateway: muc-%d", i+1), "192.0.2.1:51821", f.outer[i]+":51821").Replace(f.text(t, "yaml fleet-own"))
		f.write(t, fmt.Sprintf("muc-%d/config.yaml", i+1), own+"state_dir: "+f.etc(i)+"/state\n")
		f.gateways = append(f.gateways, start(t, h, filepath.Join(f.etc(i), "config.yaml")))
	}
	f.untilAll(t, "serving", 1)
	f.operate(t, "sh fleet-peer")
	stock(t, f.Laptop, f.path("operator/ana.conf"), "10.20.0.0/24")
	f.untilCarrying(t)
	f.peersOf(t, 0, 1)
	if seen := f.on(t, 1, "sh fleet-look", 0); strings.Count(seen, "site muc: all 3 gateways serve generation 1\n") != 2 {
		t.Errorf("got %s, want the same from the gateway and from the store", seen)
	}

	link := strings.TrimSpace(f.operate(t, "sh fleet-invite"))
	swaps = append(swaps, "LINK", link)
	f.here = strings.NewReplacer(swaps...)
	eventually(t, "the gateway that the link leads to has the invitation", func() error {
		if list := f.gateways[0].must(t, "peer", "list"); !strings.Contains(list, "dora") {
			return fmt.Errorf("it has %s", list)
		}
		return nil
	})
	f.follow(t, f.Laptop, f.path("laptop"), f.path("none.sock"), "sh fleet-join", 0)
	if r := f.join(t, f.Laptop, link, "again.conf"); r.code != 4 {
		t.Errorf("a second time: %s, want that it is refused", r)
	}
	if list := f.operate(t, "sh fleet-invites"); !strings.Contains(list, "used") {
		t.Errorf("got %s, want that the invitation is used", list)
	}
	if text := f.read(t, "operator/site/peers/dora.yaml"); !strings.Contains(text, "public_key:") || strings.Contains(text, "invite:") {
		t.Errorf("got %s, want the key with which dora has joined", text)
	}

	f.write(t, "operator/site/peers/carl.yaml", f.text(t, "yaml fleet-more-peers"))
	f.operate(t, "sh fleet-next")
	f.untilAll(t, "serving", 2)
	if list := f.gateways[2].must(t, "peer", "list"); !strings.Contains(list, "ana") || !strings.Contains(list, "carl") || !strings.Contains(list, "dora") || strings.Contains(list, "ben") {
		t.Errorf("got %s, want ana, carl and dora", list)
	}

	r := f.ask(t)
	f.gateways[0].kill(t)
	f.untilCarrying(t)
	r.answered(t, 5)
	_, gap := r.end()
	t.Logf("the longest time without an answer after a gateway was killed: %v", gap)
	eventually(t, "a gateway says that the other is silent", func() error {
		for _, m := range f.gateways[1].members(t) {
			if m.Name == "muc-1" && m.State == "silent" {
				return nil
			}
		}
		return fmt.Errorf("it sees %v", f.gateways[1].members(t))
	})
	if seen := f.on(t, 1, "sh fleet-look", 4); strings.Count(seen, "site muc: 2 of 3 gateways serve generation 2: muc-1 is silent\n") != 2 {
		t.Errorf("got %s, want that one is silent", seen)
	}
	f.gateways[0].start(t)
	f.untilAll(t, "serving", 2)

	taker := 1
	if f.gateways[2].active(t) == 1 {
		taker = 2
	}
	f.on(t, taker, "sh fleet-drain", 0)
	f.untilCarrying(t)
	f.untilAll(t, "serving", 2)

	f.gateways[2].stop(t, syscall.SIGTERM) // it is away for long
	second := key(t, f.operate(t, "sh fleet-second"))
	f.edit(t, "operator/site/site.yaml", fmt.Sprintf("[%q]", operator), fmt.Sprintf("[%q, %q]", operator, second))
	f.operate(t, "sh fleet-both")
	f.untilAt(t, 3, 0, 1)
	f.edit(t, "operator/site/site.yaml", fmt.Sprintf("[%q, %q]", operator, second), fmt.Sprintf("[%q]", second))
	f.operate(t, "sh fleet-only")
	f.untilAt(t, 4, 0, 1)

	t.Run("a gateway that was away while the signers changed twice", func(t *testing.T) {
		p := f.gateways[2]
		p.start(t)
		eventually(t, "it refuses the bundle of somebody whom it does not know", func() error {
			for _, m := range p.members(t) {
				if m.Name == "muc-3" && m.Generation == 2 && m.Refused == 4 && strings.Contains(m.Fault, second) {
					return nil
				}
			}
			return fmt.Errorf("it sees %+v", p.members(t))
		})
		p.stop(t, syscall.SIGTERM)
		if err := os.RemoveAll(filepath.Join(f.etc(2), "state", "fleet")); err != nil {
			t.Fatal(err)
		}
		f.edit(t, "muc-3/config.yaml", operator, second)
		p.start(t)
		f.untilAll(t, "serving", 4)
	})
	t.Run("the store is lost", func(t *testing.T) {
		if err := os.RemoveAll(f.path("store/truth")); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(f.path("store/blobs")); err != nil {
			t.Fatal(err)
		}
		f.on(t, 1, "sh fleet-seed", 0)
		f.untilAll(t, "serving", 4)
		if seen := f.on(t, 1, "sh fleet-look", 0); strings.Count(seen, "site muc: all 3 gateways serve generation 4\n") != 2 {
			t.Errorf("got %s, want generation 4 from the store again", seen)
		}
	})
}

// untilAt waits until some gateways have a generation in force.
func (f *fleetPage) untilAt(t *testing.T, generation int, gateways ...int) {
	t.Helper()
	for _, i := range gateways {
		eventually(t, fmt.Sprintf("gateway %d has generation %d", i+1, generation), func() error {
			all := f.gateways[i].members(t)
			if len(all) <= i || all[i].Generation != generation {
				return fmt.Errorf("it sees %+v", all)
			}
			return nil
		})
	}
}

// active returns how many peers a gateway has.
func (p *penstock) active(t *testing.T) int {
	t.Helper()
	var status struct{ Peers struct{ Active int } }
	if r := p.cli(t, "status", "--json"); json.Unmarshal([]byte(r.stdout), &status) != nil {
		t.Fatalf("status: %s", r)
	}
	return status.Peers.Active
}
