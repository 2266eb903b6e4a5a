package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// Exit codes of penstock.
const (
	exitNotRunning = 3
	exitPermission = 4 // also: degraded or blocked
	exitConfig     = 5
	exitBlocked    = 6
)

// laptop [penstock that does not start]     [penstock that does not start] gateway
func TestBadConfigurationsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	laptop, gateway := settled(t, w.Laptop), settled(t, w.Gateway)
	for _, row := range []struct {
		sentence string
		file     string // laptop.yaml or gateway.yaml
		old, new string // edit of it
		prepare  func(t *testing.T)
		line     string // what it begins with, after the directory
		message  string // what is wrong
		mend     string // what to do
	}{
		{"an unknown key", "laptop.yaml", "metrics:", "metrix:", nil, "laptop.yaml:16:1", "metrix", "metrics"},
		{"an unknown key inside", "laptop.yaml", "state_file:", "statefile:", nil, "laptop.yaml:2:", "statefile", "state_file"},
		{"a wrong type", "laptop.yaml", "{file: gambling.txt}", "{file: [1, 2]}", nil, "laptop.yaml:6:", "file", ""},
		{"a number that is none", "gateway.yaml", "51820,", "many,", nil, "gateway.yaml:2:", "listen_port", ""},
		{"a missing last rule", "laptop.yaml", "  - {name: rest, do: {via: corp}}\n", "", nil, "laptop.yaml:14:", "last rule", "{name: rest, do: direct}"},
		{"an unknown transport", "laptop.yaml", "do: {via: corp}", "do: {via: crop}", nil, "laptop.yaml:14:", `"crop"`, `"corp"`},
		{"an unknown category", "laptop.yaml", "category: adult", "category: adlut", nil, "laptop.yaml:13:", `"adlut"`, `"adult"`},
		{"an unknown action", "laptop.yaml", "do: block", "do: blok", nil, "laptop.yaml:12:", `blok`, "block"},
		{"a list that does not exist", "laptop.yaml", "gambling.txt", "gone.txt", nil, "laptop.yaml:6:", "gone.txt", "correct the path"},
		{"a profile that does not exist", "laptop.yaml", "corp.conf", "gone.conf", nil, "laptop.yaml:4:", "gone.conf", ""},
		{"overlapping peers", "gateway.yaml", "peers:\n",
			"peers:\n  - {name: ana, public_key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=, allowed_ips: [10.99.0.2/31]}\n",
			nil, "gateway.yaml:", "10.99.0.2/31", "give every peer its own"},
		{"a key file that everybody reads", "gateway.yaml", "", "",
			func(t *testing.T) { chmod(t, w.path("gateway.key"), 0o644) }, "gateway.yaml:2:", "gateway.key", "chmod 600"},
		{"a profile that everybody reads", "laptop.yaml", "", "",
			func(t *testing.T) { chmod(t, w.path("corp.conf"), 0o644) }, "laptop.yaml:4:", "corp.conf", "chmod 600"},
		{"a configuration that everybody reads", "laptop.yaml", "", "",
			func(t *testing.T) { chmod(t, w.path("laptop.yaml"), 0o644) }, "laptop.yaml", "laptop.yaml", "chmod 600"},
		{"a key file that is not there", "gateway.yaml", "gateway.key", "gone.key", nil, "gateway.yaml:2:", "penstock genkey", ""},
		{"a line that a profile must not have", "laptop.yaml", "", "",
			func(t *testing.T) { w.edit(t, "corp.conf", "DNS =", "Jc = 4\nDNS =") }, "laptop.yaml:4:", "Jc", ""},
		{"no YAML", "laptop.yaml", "rules:\n", "rules: [\n", nil, "laptop.yaml:", "YAML", ""},
		{"a test that does not hold", "laptop.yaml", "metrics:", "tests: [{to: \"https://casino.example\", expect: direct}]\nmetrics:", nil, "laptop.yaml:16:", "casino.example", ""},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			good := map[string]string{}
			for _, name := range []string{"laptop.yaml", "gateway.yaml", "corp.conf", "gateway.key"} {
				b, err := os.ReadFile(w.path(name))
				if err != nil {
					t.Fatal(err)
				}
				good[name] = string(b)
			}
			defer func() {
				for name, text := range good {
					w.write(t, name, text)
					chmod(t, w.path(name), 0o600)
				}
			}()
			if row.old != "" {
				w.edit(t, row.file, row.old, row.new)
			}
			if row.prepare != nil {
				row.prepare(t)
			}
			h := w.Laptop
			if row.file == "gateway.yaml" {
				h = w.Gateway
			}
			for _, command := range []string{"check", "run"} {
				r := run(t, h, built("penstock"), "--socket", w.path("bad.sock"), command, "-c", w.path(row.file))
				code := exitConfig
				if command == "check" && strings.Contains(row.sentence, "does not hold") {
					code = 1
				}
				if fault := refused(r, code, w.path(row.line), row.message, row.mend); fault != "" {
					t.Errorf("%s: %s", command, fault)
				}
			}
		})
	}
	wantState(t, w.Laptop, laptop)
	wantState(t, w.Gateway, gateway)
}

// refused says what is amiss with the way in which a penstock refused to run; nothing if all is well. All texts are in
// one line of what it said, begin first.
func refused(r result, code int, begin string, texts ...string) string {
	if r.code != code {
		return fmt.Sprintf("got %s\nwant exit code %d", r, code)
	}
	for line := range strings.Lines(r.stderr) {
		if !strings.HasPrefix(strings.TrimPrefix(line, "penstock: "), begin) {
			continue
		}
		for _, text := range texts {
			if !strings.Contains(line, text) {
				return fmt.Sprintf("got %swant %q in it", line, text)
			}
		}
		return ""
	}
	return fmt.Sprintf("got %s\nwant a line that begins with %s", r, begin)
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// laptop [penstock that finds its TUN or port taken]     [penstock that finds its port taken] gateway
func TestWhatIsTakenIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "gateway.yaml", "dns:\n", "dns:\n  listen: [\"127.0.0.1:5353\"]\n")
	ip, nc := program(t, "ip"), program(t, "nc")
	for _, row := range []struct {
		sentence string
		host     *netlab.Host
		file     string
		take     string // a program that takes it, and holds it if it does not end
		free     string // gives it back
		line     string
		message  string
		mend     string
	}{
		{"the TUN's name is another interface's", w.Laptop, "laptop.yaml", ip + " link add pen0 type veth peer name pen0-peer", ip + " link del pen0",
			"laptop.yaml:2:", "pen0", "another name"},
		{"the TUN's name is a device of another program's", w.Laptop, "laptop.yaml", ip + " tuntap add pen0 mode tap", ip + " tuntap del pen0 mode tap",
			"laptop.yaml:2:", "pen0", "another name"},
		{"the WireGuard port is in use", w.Gateway, "gateway.yaml", nc + " -u -l 0.0.0.0 51820", "", "gateway.yaml:2:", "51820", "another port"},
		{"the port of an address that DNS listens on is in use", w.Gateway, "gateway.yaml", nc + " -u -l 127.0.0.1 5353", "", "gateway.yaml:7:", "127.0.0.1:5353", "another"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			words := strings.Fields(row.take)
			taker := row.host.Command(t.Context(), words[0], words[1:]...)
			if err := taker.Start(); err != nil {
				t.Fatal(err)
			}
			if row.free != "" {
				if err := taker.Wait(); err != nil {
					t.Fatal(err)
				}
				words := strings.Fields(row.free)
				defer func() {
					if r := run(t, row.host, words[0], words[1:]...); r.code != 0 {
						t.Errorf("%s: %s", row.free, r)
					}
				}()
			} else {
				defer func() {
					_ = taker.Process.Kill()
					_ = taker.Wait()
				}()
				eventually(t, "the port is taken", func() error {
					if r := run(t, row.host, program(t, "ss"), "-Hntul"); !strings.Contains(r.stdout, words[len(words)-1]) {
						return fmt.Errorf("ss: %s", r)
					}
					return nil
				})
			}
			before := settled(t, row.host)
			r := run(t, row.host, built("penstock"), "--socket", w.path("bad.sock"), "run", "-c", w.path(row.file))
			if fault := refused(r, exitConfig, w.path(row.line), row.message, row.mend); fault != "" {
				t.Error(fault)
			}
			wantState(t, row.host, before)
		})
	}
}

// laptop [penstock without privileges]     [penstock without privileges] gateway
func TestWithoutPermissionItSaysSo(t *testing.T) {
	t.Parallel()
	setpriv := program(t, "setpriv")
	w := newWorld(t)
	laptop, gateway := settled(t, w.Laptop), settled(t, w.Gateway)
	for _, row := range []struct {
		sentence string
		host     *netlab.Host
		args     string
		prepare  func()
		message  string
		mend     string
		code     int
	}{
		{"a laptop may not make a TUN", w.Laptop, "run -c DIR/laptop.yaml", nil, "laptop.yaml:2:", "root", exitPermission},
		{"a gateway may not listen on a port of the system's", w.Gateway, "run -c DIR/gateway.yaml", func() { w.edit(t, "gateway.yaml", "51820,", "520,") }, "520", "", exitPermission},
		{"a key file cannot be read", w.Gateway, "run -c DIR/gateway.yaml", func() { chmod(t, w.path("gateway.key"), 0) }, "gateway.yaml:2:", "run this as its owner", exitConfig},
		{"a configuration cannot be read", w.Gateway, "run -c DIR/gateway.yaml", func() { chmod(t, w.path("gateway.yaml"), 0) }, "gateway.yaml", "run this as its owner or as root", exitConfig},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			if row.prepare != nil {
				row.prepare()
			}
			args := append([]string{"--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", built("penstock"), "--socket", w.path("bad.sock")}, strings.Fields(w.fill.Replace(row.args))...)
			r := run(t, row.host, setpriv, args...)
			if r.code != row.code || !strings.Contains(r.stderr, row.message) || !strings.Contains(r.stderr, row.mend) {
				t.Errorf("got %s\nwant exit code %d, %q and %q", r, row.code, row.message, row.mend)
			}
			if lines := strings.Count(r.stderr, "\n"); lines > 4 {
				t.Errorf("got %d lines, want one error and a few lines of the log:\n%s", lines, r.stderr)
			}
		})
	}
	wantState(t, w.Laptop, laptop)
	wantState(t, w.Gateway, gateway)
}

// laptop [penstock that does not start]     [penstock that does not start] gateway
func TestFilesOfOthersAreNotTrusted(t *testing.T) {
	t.Parallel()
	needsOthers(t)
	const nobody = 65534
	w := newOpenVPNWorld(t, "udp4")
	if err := os.Mkdir(w.path("peers.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, public := keyPair(t)
	w.write(t, "peers.d/ana.yaml", "peers: [{name: ana, public_key: "+public+", allowed_ips: [10.99.0.7/32]}]\n")
	w.write(t, "pass.txt", "me\nsecret\n")
	w.write(t, "corp.ovpn", "client\ndev tun\nproto udp\nremote 198.51.100.10 1194\nremote-cert-tls server\nca ca.pem\ncert client.pem\nkey client.key\nauth-user-pass pass.txt\n")
	check := func(file string) result {
		return run(t, w.Access, built("penstock"), "check", "-c", w.path(file))
	}
	for _, row := range []struct{ config, name string }{
		{"gateway.yaml", "gateway.yaml"},
		{"gateway.yaml", "peers.d/ana.yaml"},
		{"gateway.yaml", "gateway.key"},
		{"laptop.yaml", "corp.ovpn"},
		{"laptop.yaml", "client.key"},
		{"laptop.yaml", "pass.txt"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if r := check(row.config); r.code != 0 {
				t.Fatalf("before: %s", r)
			}
			if err := os.Chown(w.path(row.name), nobody, nobody); err != nil {
				t.Fatal(err)
			}
			chmod(t, w.path(row.name), 0o600)
			for _, r := range []result{check(row.config), w.tryRun(t, row.config)} {
				if r.code != exitConfig || !strings.Contains(r.stderr, row.name) || !strings.Contains(r.stderr, "chown 0 ") {
					t.Errorf("another user's: got %s\nwant exit code %d, its name and the mend", r, exitConfig)
				}
			}
			if err := os.Chown(w.path(row.name), 0, 0); err != nil {
				t.Fatal(err)
			}
			chmod(t, w.path(row.name), 0o644)
			if r := check(row.config); r.code != exitConfig || !strings.Contains(r.stderr, row.name) || !strings.Contains(r.stderr, "chmod 600 ") {
				t.Errorf("one that everybody reads: got %s\nwant exit code %d, its name and the mend", r, exitConfig)
			}
			chmod(t, w.path(row.name), 0o600)
		})
	}
}
