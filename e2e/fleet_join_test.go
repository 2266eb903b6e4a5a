package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// joiningFleet is two gateways that people can join at either.
type joiningFleet struct{ *fleetOf }

func newJoiningFleet(t *testing.T) joiningFleet {
	t.Helper()
	f := newFleet(t, 2)
	f.fleet(t, "keygen", "enrolment", f.path("site/secrets/enrol.key"))
	f.edit(t, "site/gateway.yaml", "listen:\n", fmt.Sprintf("listen:\n  enrol: {url: \"https://%s:8443\", private_key: {file: secrets/enrol.key}}\n", f.outer[0]))
	f.edit(t, "site/gateway.yaml", `endpoint: "198.51.100.10:51820"`, fmt.Sprintf(`endpoint: "%s:51820,%s:51820"`, f.outer[0], f.outer[1]))
	f.publish(t)
	f.up(t)
	return joiningFleet{f}
}

// operate runs penstock fleet peer with the operator's key.
func (f joiningFleet) operate(t *testing.T, args ...string) result {
	t.Helper()
	args = append(append([]string{"fleet", "peer"}, args...), f.path("site"), "--key", f.path("operator.key"))
	return run(t, f.Internet, built("penstock"), append(args, f.store...)...)
}

// invites returns what fleet peer invites lists.
func (f joiningFleet) invites(t *testing.T) string {
	t.Helper()
	return f.fleet(t, append([]string{"peer", "invites", f.path("site")}, f.store...)...)
}

// invite makes an invitation and returns its link, which leads to the first gateway, and one that leads to the second.
func (f joiningFleet) invite(t *testing.T, name string, args ...string) (first, second string) {
	t.Helper()
	r := f.operate(t, append([]string{"invite", name}, args...)...)
	if r.code != 0 {
		t.Fatalf("fleet peer invite: %s", r)
	}
	first = strings.TrimSpace(r.stdout)
	return first, strings.Replace(first, f.outer[0], f.outer[1], 1)
}

// states wants the state of a peer on both gateways; "" is that there is none.
func (f joiningFleet) states(t *testing.T, name, want string) {
	t.Helper()
	for i, p := range f.gateways {
		eventuallyWithin(t, fleetPatience, fmt.Sprintf("on gateway %d the state of %s is %q", i+1, name, want), func() error {
			var list struct {
				Peers []struct{ Name, State string }
			}
			if r := p.cli(t, "peer", "list", "--json"); json.Unmarshal([]byte(r.stdout), &list) != nil {
				return fmt.Errorf("peer list: %s", r)
			}
			got := ""
			for _, peer := range list.Peers {
				if peer.Name == name {
					got = peer.State
				}
			}
			if got != want {
				return fmt.Errorf("it is %q", got)
			}
			return nil
		})
	}
}

// refused wants that a link is refused, and that nothing is written.
func (f joiningFleet) refused(t *testing.T, link, says string) {
	t.Helper()
	r := f.join(t, f.Laptop, link, "refused.conf")
	if r.code != 4 || !strings.Contains(r.stderr, says) || r.stdout != "" {
		t.Errorf("got %s, want a refusal that says %q", r, says)
	}
	if _, err := os.Stat(f.path("refused.conf")); err == nil {
		t.Error("a file is left")
	}
}

// laptop [penstock join, then wireguard-go] --- HTTPS ---> gateway 1
//
//	^=== WireGuard === gateway 2 --- intranet
func TestPeopleJoinAFleet(t *testing.T) {
	t.Parallel()
	f := newJoiningFleet(t)
	const invalid = "this invitation is not valid: ask for a new one\n"
	first, second := f.invite(t, "ana", "--group", "staff")
	f.states(t, "ana", "invited")

	r := f.join(t, f.Laptop, first, "ana.conf")
	if r.code != 0 {
		t.Fatalf("penstock join: %s", r)
	}
	text := f.read(t, "ana.conf")
	if got := values(text, "Endpoint"); len(got) != 2 || got[0] != f.outer[0]+":51820" || got[1] != f.outer[1]+":51820" {
		t.Errorf("got the endpoints %v, want those of both gateways", got)
	}
	f.states(t, "ana", "idle")
	f.write(t, "second.conf", strings.Replace(text, "Endpoint = "+f.outer[0]+":51820\n", "", 1))
	stock(t, f.Laptop, f.path("second.conf"), "10.20.0.0/24")
	f.untilCarrying(t)
	f.peersOf(t, 1, 1)
	f.peersOf(t, 0, 0)
	for _, link := range []string{first, second} { // the second one checks that both have the certificate that the link names
		f.refused(t, link, invalid)
	}
	if list := f.invites(t); !strings.Contains(list, "used") {
		t.Errorf("got %s, want that the invitation of ana is used", list)
	}
	for _, p := range f.gateways { // who has joined is on the disk
		p.kill(t)
		p.start(t)
	}
	f.states(t, "laptop", "idle")
	f.untilCarrying(t)

	t.Run("many at once at both gateways", func(t *testing.T) {
		a, b := f.invite(t, "ben")
		f.states(t, "ben", "invited")
		var wg sync.WaitGroup
		results := make([]result, 10)
		for i := range results {
			link := a
			if i%2 == 1 {
				link = b
			}
			wg.Go(func() { results[i] = f.join(t, f.Laptop, link, fmt.Sprintf("ben%d.conf", i)) })
		}
		wg.Wait()
		joined := 0
		for _, r := range results {
			switch {
			case r.code == 0:
				joined++
			case r.code != 4 || !strings.HasSuffix(r.stderr, invalid):
				t.Errorf("got %s, want that the invitation is not valid", r)
			}
		}
		if joined != 1 {
			t.Errorf("%d have joined, want 1", joined)
		}
		f.states(t, "ben", "idle")
	})
	t.Run("an invitation that is taken back", func(t *testing.T) {
		link, _ := f.invite(t, "carl")
		f.states(t, "carl", "invited")
		if r := f.operate(t, "uninvite", "carl"); r.code != 0 {
			t.Fatalf("fleet peer uninvite: %s", r)
		}
		f.states(t, "carl", "")
		f.refused(t, link, invalid)
	})
	t.Run("without the store", func(t *testing.T) {
		link, _ := f.invite(t, "dora")
		f.states(t, "dora", "invited")
		if err := os.Rename(f.path("store"), f.path("store.away")); err != nil {
			t.Fatal(err)
		}
		f.write(t, "store", "in its way")
		f.refused(t, link, "nothing has changed: try again later")
		f.states(t, "dora", "invited")
		if err := os.Remove(f.path("store")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(f.path("store.away"), f.path("store")); err != nil {
			t.Fatal(err)
		}
		eventuallyWithin(t, fleetPatience, "dora joins when the store is back", func() error {
			if r := f.join(t, f.Laptop, link, "dora.conf"); r.code != 0 {
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		f.states(t, "dora", "idle")
	})
	t.Run("the next bundle has them", func(t *testing.T) {
		if r := run(t, f.Internet, built("penstock"), append([]string{"fleet", "peer", "collect", f.path("site")}, f.store...)...); r.code != 0 || !strings.Contains(r.stderr, "peer ana has joined") {
			t.Fatalf("fleet peer collect: %s", r)
		}
		f.publish(t)
		f.untilAll(t, "serving", 2)
		f.untilCarrying(t)
		for _, name := range []string{"ben", "dora"} {
			f.states(t, name, "idle")
		}
	})
	t.Run("a peer that has joined is removed", func(t *testing.T) {
		if r := f.operate(t, "rm", "ana"); r.code != 0 {
			t.Fatalf("fleet peer rm: %s", r)
		}
		f.states(t, "ana", "")
		if err := f.carriesOnce(time.Second); err == nil {
			t.Error("a peer that was removed is still carried")
		}
		f.refused(t, first, invalid)
	})
}
