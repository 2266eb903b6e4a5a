package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/user"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// finding is what the tests read of what doctor prints.
type finding struct{ Name, Result, Found, Mend string }

// examine runs doctor on the laptop and returns its findings by name, and its exit code.
func examine(t *testing.T, w *world, args ...string) (map[string]finding, int) {
	t.Helper()
	return inTime(t, w.Laptop, built("penstock"), append([]string{"--socket", w.laptop.socket, "doctor", "-c", w.laptop.config, "--json"}, args...)...)
}

// inTime runs a command that prints findings, and runs it again as long as a slow machine makes a look take too long.
func inTime(t *testing.T, h *netlab.Host, name string, args ...string) (got map[string]finding, code int) {
	t.Helper()
	eventually(t, "all looks end in time", func() error {
		r := run(t, h, name, args...)
		got, code = findings(t, r), r.code
		for _, f := range got {
			if strings.Contains(f.Found, "in time") {
				return fmt.Errorf("%+v", f)
			}
		}
		return nil
	})
	return got, code
}

func findings(t *testing.T, r result) map[string]finding {
	t.Helper()
	var answer struct {
		APIVersion string
		Findings   []finding
	}
	if err := json.Unmarshal([]byte(r.stdout), &answer); err != nil || answer.APIVersion != "penstock/v1" {
		t.Fatalf("doctor --json: %v: %s", err, r)
	}
	byName := make(map[string]finding)
	for _, f := range answer.Findings {
		byName[f.Name] = f
	}
	return byName
}

// laptop [pen0 -> penstock, and what breaks it] lan0 === WireGuard ===> [penstock] gateway
func TestDoctorFindsWhatIsWrongWithTheHost(t *testing.T) {
	t.Parallel()
	needsOthers(t) // the socket is a group's
	group, err := user.LookupGroupId("65534")
	if err != nil {
		t.Skip(err)
	}
	w := newWorld(t, "rules:\n", "control: {group: "+group.Name+"}\nrules:\n").up(t)
	shell := func(script string) {
		t.Helper()
		if r := run(t, w.Laptop, program(t, "sh"), "-ec", script); r.code != 0 {
			t.Fatalf("%s: %s", script, r)
		}
	}
	want := func(sentence string, got map[string]finding, name, result, found string) {
		t.Helper()
		f := got[name]
		if f.Result != result || !strings.Contains(f.Found, found) || (f.Mend == "") == (result == "fault") {
			t.Errorf("%s: %s: got %+v; want the result %s that has %q, and a mend for a fault", sentence, name, f, result, found)
		}
	}

	got, code := examine(t, w)
	const sound = "a sound laptop"
	for name, f := range got {
		if code != 0 || f.Result != "ok" && !(f.Name == "unit" && f.Result == "not checked") {
			t.Errorf("%s: exit code %d, %s: got %+v; want ok", sound, code, name, f)
		}
	}
	want(sound, got, "penstock", "ok", "connected via corp")
	want(sound, got, "resolver", "ok", "programs ask penstock (10.77.0.2")
	want(sound, got, "leak", "ok", "packets to the internet by IPv6 enter pen0")
	want(sound, got, "ports", "ok", "penstock listens on tcp 127.0.0.1:9477 (metrics.listen)")
	want(sound, got, "host changes", "ok", "in force")
	if r := w.gateway.cli(t, "doctor"); r.code != 0 || !strings.Contains(r.stdout, "penstock listens on udp [::]:51820 (listen.wireguard.listen_port)") {
		t.Errorf("a sound gateway: got %s, want exit code 0", r)
	}
	inside, _ := inTime(t, w.Laptop, program(t, "curl"), "-sS", "--unix-socket", w.laptop.socket, "-X", "POST", "http://penstock/v1/doctor")
	for name, f := range got {
		if inside[name].Result != f.Result {
			t.Errorf("the daemon's own checks: %s: got %+v, want the result of the command, %+v", name, inside[name], f)
		}
	}

	t.Run("the archive has what is needed and nobody's names", func(t *testing.T) {
		archive := w.path("b.tgz")
		tryAll(t, w.Laptop, []attempt{{"a question that is refused", "dig +short " + netlab.GamblingSite, "", nil}})
		r := run(t, w.Laptop, built("penstock"), "--socket", w.laptop.socket, "bundle", "-o", archive)
		if info, err := os.Stat(archive); r.code != 0 || err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("bundle: %s, %v, %v", r, info, err)
		}
		text := run(t, w.Laptop, program(t, "tar"), "-xzOf", archive).stdout
		key, _, _ := strings.Cut(strings.SplitN(w.read(t, "corp.conf"), "PrivateKey = ", 2)[1], "\n")
		for _, secret := range []string{key, netlab.GamblingSite, "corp.example", netlab.GatewayIPv4, "10.99.0.", "192.168.50."} {
			if strings.Contains(text, secret) {
				t.Errorf("the archive has %q", secret)
			}
		}
		for _, part := range []string{"no-gambling", `"verdict": "block"`, "penstock_policy_generation", "go_goroutines", "table inet penstock_pen0", "lookup 7077", `"config": "`} {
			if !strings.Contains(text, part) {
				t.Errorf("the archive has no %s", part)
			}
		}
		if again := run(t, w.Laptop, built("penstock"), "--socket", w.laptop.socket, "bundle", "-o", archive); again.code != 1 || !strings.Contains(again.stderr, "does not overwrite") {
			t.Errorf("a second one: got %s, want it refused", again)
		}
	})

	if err := os.Chmod(w.dir, 0o755); err != nil { // the way to the socket
		t.Fatal(err)
	}
	nobody := func(group string) map[string]finding {
		t.Helper()
		got, code := inTime(t, w.Laptop, program(t, "sh"), "-c", program(t, "setpriv")+" --reuid 65534 --clear-groups --regid "+group+" /proc/self/fd/9 --socket "+
			w.laptop.socket+" doctor --json 9<"+built("penstock"))
		if code != 0 {
			t.Errorf("nobody: got exit code %d with %+v, want 0: what was not checked is no fault", code, got)
		}
		return got
	}
	got = nobody("60999")
	want("nobody", got, "rights", "not checked", "run this with sudo")
	want("nobody", got, "nftables", "not checked", "permission")
	want("nobody", got, "penstock", "not checked", "no permission to open the control socket")
	want("nobody", got, "path IPv4", "ok", "on lan0")
	got = nobody("65534")
	want("a member of control.group", got, "penstock", "ok", "connected via corp")
	for _, name := range []string{"nftables", "packet marks", "configuration", "leak", "resolver", "ports", "host changes"} {
		want("a member of control.group", got, name, "ok", "(says the running penstock)")
	}

	shell("ip rule add priority 100 lookup main")
	got, code = examine(t, w)
	if code != 4 {
		t.Errorf("a leak: exit code %d, want 4", code)
	}
	want("a rule before penstock's", got, "leak", "fault", "packets to the internet by IPv4 leave by lan0")
	shell("ip rule del priority 100")

	w.laptop.kill(t)
	shell("ip link add docker0 type bridge; ip addr add 10.77.5.1/16 dev docker0; ip link set docker0 up; echo 'nameserver 10.77.0.2' > /etc/resolv.conf")
	w.write(t, "host.json.handshake", "2126-11-29T04:05:06Z\n")
	var taken net.Listener
	if err := w.Laptop.Do(func() (err error) {
		taken, err = net.Listen("tcp", monitor)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	got, code = examine(t, w)
	if code != 4 {
		t.Errorf("a broken host: exit code %d, want 4", code)
	}
	for _, row := range []finding{
		{"penstock", "not checked", "does not run", ""},
		{"host changes", "fault", "a penstock that died has left changes", ""},
		{"clock", "fault", "the last handshake was at 2126-11-29", ""},
		{"resolver", "fault", "asks penstock (10.77.0.2), which does not run", ""},
		{"addresses: listen.tun.address", "fault", "10.77.0.0/24 is also 10.77.0.0/16 of docker0", ""},
		{"ports", "fault", "127.0.0.1:9477 (metrics.listen) is taken by e2e.test", ""},
	} {
		want("a broken host", got, row.Name, row.Result, row.Found)
	}
	if r := run(t, w.Laptop, built("penstock"), "--socket", w.laptop.socket, "doctor", "-c", w.laptop.config); !strings.Contains(r.stdout, "mend:  penstock cleanup --state "+w.path("host.json")) {
		t.Errorf("the table: got %s, want the mend", r)
	} else {
		t.Log(r.stdout)
	}

	shell("chmod 644 " + w.path("corp.conf"))
	got, _ = examine(t, w)
	want("a key that others may read", got, "configuration", "fault", "mode 0644")
	want("a key that others may read", got, "ports", "not checked", "mend that first")
}
