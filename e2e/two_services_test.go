package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// laptop [penstock of root, then one more of root or of nobody] === WireGuard ===> [penstock] gateway --- intranet
func TestTwoServicesOfTwoUsers(t *testing.T) {
	t.Parallel()
	needsOthers(t)
	setpriv := program(t, "setpriv")
	w := newWorld(t, "rules:", "always_on: {lockdown: true}\nrules:").up(t)
	t.Cleanup(func() { run(t, w.Laptop, built("penstock"), "lockdown", "off", "-c", w.path("laptop.yaml")) })
	chmod(t, w.dir, 0o777) // the first one's files are its own all the same, but others may remove them
	t.Cleanup(func() { chmod(t, w.dir, 0o700) })
	before := settled(t, w.Laptop)

	journal, metrics := "state_file: "+w.dir+"/host.json", `"127.0.0.1:9477"`
	own := []string{journal, "state_file: OWN/state.json", metrics, `"127.0.0.1:9478"`}
	other := append([]string{"pen0", "pen1", "10.77.0.1", "10.78.0.1", "fd77::1", "fd78::1"}, own...)
	closed, open := []string{"lockdown: true}", "lockdown: true, lan: block}"}, []string{"always_on: {lockdown: true}\n", ""} // the first one's is neither
	users := []struct {
		name  string
		flags []string
	}{
		{"root", nil},
		{"nobody", []string{"--reuid=65534", "--regid=65534", "--clear-groups"}},
		{"nobody, who may change the network", []string{"--reuid=65534", "--regid=65534", "--clear-groups",
			"--inh-caps=-all,+net_admin,+net_raw", "--ambient-caps=-all,+net_admin,+net_raw"}},
	}
	const (
		inUse  = "state file is in use by another penstock: stop that one first"
		denied = "permission denied: it is another user's, so run this as that user or as root"
		runs   = "another penstock leads packets into a TUN of its own (see ip route show table 7077): stop it first"
		held   = "another program holds an interface of this name: stop it or choose another name"
		root   = "run as root or with CAP_NET_ADMIN"
		socket = "another penstock is running there; stop it or choose another path with control.socket"
		maybe  = "another penstock may be running there, perhaps of another user"
	)
	for _, row := range []struct {
		sentence, from string
		edits          []string
		socket         string // that of the first one, or OWN/p.sock
		codes          [3]int // of the users
		says           [3]string
	}{
		{"with the same state file", "laptop.yaml", closed, "OWN/p.sock", [3]int{1, 4, 4}, [3]string{inUse, denied, denied}},
		{"with the same TUN", "laptop.yaml", append(closed, own...), "OWN/p.sock", [3]int{1, 1, 1}, [3]string{runs, runs, runs}},
		{"with the same TUN and no lockdown", "laptop.yaml", append(open, own...), "OWN/p.sock", [3]int{5, 5, 5}, [3]string{held, held, held}},
		{"with another TUN", "laptop.yaml", append(closed, other...), "OWN/p.sock", [3]int{1, 1, 1}, [3]string{runs, runs, runs}},
		{"with another TUN and no lockdown", "laptop.yaml", append(open, other...), "OWN/p.sock", [3]int{1, 4, 1}, [3]string{runs, root, runs}},
		{"that is a gateway, with the same socket", "gateway.yaml", []string{"51820,", "51821,", metrics, `"127.0.0.1:9479"`}, w.laptop.socket,
			[3]int{1, 4, 4}, [3]string{socket, maybe, maybe}},
	} {
		for i, user := range users {
			t.Run(fmt.Sprintf("a second one of %s, %s", user.name, row.sentence), func(t *testing.T) {
				folder, err := os.MkdirTemp("", "e2e-")
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(folder)
				fill := strings.NewReplacer("OWN", folder)
				files := map[string]string{"p.yaml": fill.Replace(strings.NewReplacer(row.edits...).Replace(w.read(t, row.from)))}
				for _, name := range []string{"corp.conf", "gateway.key", "gambling.txt", "adult.hosts"} {
					files[name] = w.read(t, name)
				}
				for name, text := range files {
					if err := os.WriteFile(folder+"/"+name, []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if user.flags != nil {
					if r := run(t, w.Laptop, "chown", "-R", "65534:65534", folder); r.code != 0 {
						t.Fatal(r)
					}
				}
				args := append([]string{"20", setpriv}, user.flags...)
				r := run(t, w.Laptop, "timeout", append(args, built("penstock"), "--socket", fill.Replace(row.socket), "run", "-c", folder+"/p.yaml")...)
				if r.code != row.codes[i] || strings.Count(r.stderr, row.says[i]) != 1 {
					t.Errorf("got %s\nwant exit code %d and %q", r, row.codes[i], row.says[i])
				}
				eventually(t, "the host is as before", func() error { // the first one looks after the devices that come and go
					if changed := difference(before, state(t, w.Laptop)); changed != "" {
						return errors.New(changed)
					}
					return nil
				})
				if r := w.laptop.cli(t, "status"); r.code != 0 {
					t.Errorf("status of the first: %s", r)
				}
				if err := w.carriesOnce(patience); err != nil {
					t.Errorf("the first carries nothing: %v", err)
				}
			})
		}
	}
	w.nothingInClear(t)
}
