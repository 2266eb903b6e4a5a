package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"penstock/e2e/netlab"
)

// download is a slow download on the laptop that goes on until it is cut.
type download struct {
	conn net.Conn
	r    *bufio.Reader
}

// downloadFrom begins a download from a site, which is named in HTTP.
func downloadFrom(t *testing.T, w *world, site, addr string) *download {
	t.Helper()
	conn := dial(t, w.Laptop, "tcp", net.JoinHostPort(addr, "80"))
	if _, err := fmt.Fprintf(conn, "GET /drip/100000 HTTP/1.1\r\nHost: %s\r\n\r\n", site); err != nil {
		t.Fatal(err)
	}
	d := &download{conn, bufio.NewReader(conn)}
	if err := d.goesOn(t); err != nil {
		t.Fatalf("a download from %s: %v", site, err)
	}
	return d
}

// goesOn reads a few more bytes than can be under way.
func (d *download) goesOn(t *testing.T) error {
	t.Helper()
	within(t, d.conn)
	for range 40 {
		if _, err := d.r.ReadByte(); err != nil {
			return err
		}
	}
	return nil
}

// isCut reads until the end, which must come.
func (d *download) isCut(t *testing.T) {
	t.Helper()
	within(t, d.conn)
	for {
		_, err := d.r.ReadByte()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the download goes on, want it cut")
		}
		if err != nil {
			return
		}
	}
}

// laptop [pen0 -> penstock <- penstock status, flows, explain ...] === WireGuard ===> [penstock] gateway --- intranet
func TestARunningPenstockIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	live := downloadFrom(t, w, netlab.NewsSite, newsIPv4)
	attempt{"", "curl --resolve casino.example:443:203.0.113.20 https://casino.example/", "", cutOff()}.on(t, w.Laptop)
	w.laptop.denied(t, gamblingIPv4+":443")
	w.works(t)
	for _, row := range []struct {
		sentence string
		of       *penstock
		args     string
		code     int
		want     []string // each is in what is printed
	}{
		{"status says first that it is connected", w.laptop, "status", 0, []string{"connected via corp, ", "listen tun pen0\n", "wireguard"}},
		{"status of the gateway", w.gateway, "status", 0, []string{"connected", "listen wireguard :51820\n"}},
		{"status as JSON", w.laptop, "status --json", 0, []string{`"apiVersion":"penstock/v1"`, `"state":"connected"`, `"endpoint":"198.51.100.10:51820"`}},
		{"flows shows a live one with its name", w.laptop, "flows", 0, []string{newsIPv4 + ":80", "news.example (http)", "via corp"}},
		{"flows --denied shows what was refused", w.laptop, "flows --denied", 0, []string{gamblingIPv4 + ":443", "casino.example (sni)", "no-gambling"}},
		{"the gateway's flows name the peer", w.gateway, "flows", 0, []string{"laptop 10.99.0.2:", newsIPv4 + ":80", "direct"}},
		{"explain a blocked site: the rule and the list's line", w.laptop, "explain https://www.casino.example/", exitBlocked,
			[]string{": block\n", "no-gambling, DIR/laptop.yaml:12:", "gambling: casino.example in DIR/gambling.txt:2"}},
		{"explain the intranet: the way it goes", w.laptop, "explain https://intranet.corp.example/", 0, []string{": via corp\n", "intranet, DIR/laptop.yaml:14:", "10.99.0.1 via corp, for corp.example"}},
		{"explain an address with the name that it would show", w.laptop, "explain 203.0.113.20:443 --sni casino.example", exitBlocked, []string{"no-gambling"}},
		{"explain an address alone", w.laptop, "explain 203.0.113.20:443", 0, []string{"rest"}},
		{"explain for a peer", w.gateway, "explain 10.20.0.10:443 --from laptop", 0, []string{": direct\n", "intranet, "}},
		{"explain for a peer what is refused to it", w.gateway, "explain 192.168.1.1:22 --from laptop", exitBlocked, []string{"no-private"}},
		{"rules in their order with their places", w.laptop, "rules", 0, []string{"no-gambling", "DIR/laptop.yaml:12:", "no-adult", "intranet", "rest"}},
		{"a name that the intranet's DNS knows", w.laptop, "dns query intranet.corp.example", 0, []string{"IN A 10.20.0.10\n", "NOERROR"}},
		{"a name that is blocked", w.laptop, "dns query casino.example AAAA", 0, []string{"NXDOMAIN", "no-gambling"}},
		{"a flush", w.laptop, "dns flush", 0, nil},
		{"the lists with their sizes", w.laptop, "lists", 0, []string{"DIR/gambling.txt", "DIR/adult.hosts"}},
		{"which list has a name", w.laptop, "lists lookup www.casino.example", 0, []string{"casino.example in DIR/gambling.txt:2"}},
		{"the gateway's peers", w.gateway, "peer list", 0, []string{"laptop", netlab.LaptopIPv4 + ":"}},
		{"a command that does not exist", w.laptop, "flow", 64, nil},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			r := row.of.cli(t, strings.Fields(row.args)...)
			if r.code != row.code {
				t.Errorf("got %s\nwant exit code %d", r, row.code)
			}
			for _, want := range row.want {
				if want = w.fill.Replace(want); !strings.Contains(r.stdout, want) {
					t.Errorf("got %s\nwant %q in it", r, want)
				}
			}
		})
	}
	t.Run("explain --flow tells of one that was", func(t *testing.T) {
		f := w.laptop.denied(t, gamblingIPv4+":443")
		if r := w.laptop.cli(t, "explain", "--flow", f.ID); r.code != exitBlocked || !strings.Contains(r.stdout, "no-gambling") {
			t.Errorf("got %s, want a block by no-gambling", r)
		}
	})
	t.Run("flows kill ends one", func(t *testing.T) {
		for _, f := range w.laptop.flows(t) {
			if f.Host == netlab.NewsSite {
				w.laptop.must(t, "flows", "kill", f.ID)
			}
		}
		live.isCut(t)
	})
	t.Run("nobody answers at another socket", func(t *testing.T) {
		other := &penstock{host: w.Laptop, socket: w.path("nobody.sock")}
		if r := other.cli(t, "status"); r.code != exitNotRunning || !strings.HasPrefix(r.stdout, "down: ") {
			t.Errorf("status: got %s, want down and exit code 3", r)
		}
		if r := other.cli(t, "flows"); r.code != exitNotRunning {
			t.Errorf("flows: got %s, want exit code 3", r)
		}
	})
	t.Run("the control socket is its owner's alone", func(t *testing.T) {
		info, err := os.Stat(w.laptop.socket)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("got mode %o, want 600", got)
		}
	})
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock <- penstock down, up, reconnect] === WireGuard ===> [penstock] gateway --- intranet
func TestDownAndUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	w.laptop.must(t, "down")
	eventually(t, "status says that it is down", func() error {
		if r := w.laptop.cli(t, "status"); r.code != exitNotRunning || !strings.HasPrefix(r.stdout, "down") {
			return fmt.Errorf("status: %s", r)
		}
		return nil
	})
	attempt{"", "curl http://203.0.113.10/", "", refusedOrCutOff()}.on(t, w.Laptop)
	attempt{"", "curl https://casino.example/", "", []int{noSuchName}}.on(t, w.Laptop)
	w.laptop.must(t, "up", "corp")
	w.connected(t)
	w.works(t)
	live := downloadFrom(t, w, netlab.NewsSite, newsIPv4)
	w.laptop.must(t, "reconnect")
	if err := live.goesOn(t); err != nil {
		t.Errorf("a download over a reconnect: %v, want it to go on", err)
	}
	w.connected(t)
	w.laptop.must(t, "down", "--for", "1s")
	eventually(t, "it is up again by itself", func() error {
		var s struct {
			State  string
			Reason string
		}
		if w.laptop.ask(t, &s, "status"); s.State != "connected" {
			return fmt.Errorf("state %s", s.State)
		}
		return nil
	})
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock <- penstock reload, SIGHUP] === WireGuard ===> [penstock] gateway --- news.example
func TestAReloadKeepsWhatLives(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	live := downloadFrom(t, w, netlab.PublicSite, publicIPv4)
	attempt{"", "curl http://news.example/", "this is news.example\n", nil}.on(t, w.Laptop)

	w.edit(t, "gambling.txt", "casino.example\n", "casino.example\nnews.example\n")
	w.laptop.must(t, "reload")
	attempt{"", "curl http://news.example/", "", []int{noSuchName}}.on(t, w.Laptop)
	attempt{"", "curl --resolve news.example:80:203.0.113.11 http://news.example/", "This site is blocked", nil}.on(t, w.Laptop)
	if err := live.goesOn(t); err != nil {
		t.Errorf("a download over a reload: %v, want it to go on", err)
	}

	w.edit(t, "gambling.txt", "news.example\n", "")
	if err := w.laptop.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "SIGHUP brings the old list back", func() error {
		if r := w.laptop.cli(t, "explain", "http://news.example/"); r.code != 0 {
			return fmt.Errorf("explain: %s", r)
		}
		return nil
	})
	attempt{"", "curl http://news.example/", "this is news.example\n", nil}.on(t, w.Laptop)

	w.edit(t, "laptop.yaml", "rules:", "ruels:")
	if r := w.laptop.cli(t, "reload"); r.code == 0 || !strings.Contains(r.stderr, w.path("laptop.yaml:")) || !strings.Contains(r.stderr, "ruels") {
		t.Errorf("reload of a bad file: got %s, want it refused with its place", r)
	}
	if r := w.laptop.cli(t, "status"); r.code != 0 || !strings.Contains(r.stdout, "reload was refused") {
		t.Errorf("status after it: got %s, want connected, and the refusal", r)
	}
	if got := w.metric(t, w.Laptop, "penstock_policy_reload_success"); got != 0 {
		t.Errorf("penstock_policy_reload_success: got %v, want 0", got)
	}
	w.works(t)
	w.edit(t, "laptop.yaml", "ruels:", "rules:")

	w.edit(t, "laptop.yaml", "rules:\n", "rules:\n  - {name: no-public, match: {domain: public.example}, do: block}\n")
	if r := w.laptop.must(t, "reload", "--dry-run"); !strings.Contains(r, "rules") || !strings.Contains(r, "block: 1, send elsewhere: 0") {
		t.Errorf("reload --dry-run: got %s, want one live flow that the new rules block", r)
	}
	if r := w.laptop.cli(t, "explain", "http://public.example/"); r.code != 0 {
		t.Errorf("explain after the dry run: got %s, want nothing changed", r)
	}
	if err := live.goesOn(t); err != nil {
		t.Errorf("a download over a dry run: %v, want it to go on", err)
	}
	if r := w.laptop.must(t, "reload", "--kill-denied"); !strings.Contains(r, "ended: 1") {
		t.Errorf("reload --kill-denied: got %s, want one ended", r)
	}
	live.isCut(t)
	if got := w.metric(t, w.Laptop, "penstock_policy_reload_success"); got != 1 {
		t.Errorf("penstock_policy_reload_success: got %v, want 1", got)
	}
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock <- penstock allow] === WireGuard ===> [penstock] gateway --- casino.example
func TestABlockIsLiftedForAWhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	attempt{"", "curl http://casino.example/", "", []int{noSuchName}}.on(t, w.Laptop)
	w.laptop.must(t, "allow", netlab.GamblingSite, "--for", "10m")
	attempt{"", "curl http://casino.example/", "this is casino.example\n", nil}.on(t, w.Laptop)
	attempt{"", "curl --resolve adult.example:80:203.0.113.21 http://adult.example/", "This site is blocked", nil}.on(t, w.Laptop)
	w.laptop.must(t, "allow", "category:adult", "--for", "2s")
	if r := w.laptop.cli(t, "explain", "http://adult.example/"); r.code != 0 {
		t.Errorf("explain while it is allowed: got %s, want exit code 0", r)
	}
	eventually(t, "the block is back", func() error {
		if r := w.laptop.cli(t, "explain", "http://adult.example/"); r.code != exitBlocked {
			return fmt.Errorf("explain: %s", r)
		}
		return nil
	})
	attempt{"", "curl --resolve adult.example:80:203.0.113.21 http://adult.example/", "This site is blocked", nil}.on(t, w.Laptop)
	for _, args := range [][]string{{"allow", "category:nothing", "--for", "1m"}, {"allow", netlab.GamblingSite}} {
		if r := w.laptop.cli(t, args...); r.code == 0 {
			t.Errorf("%v: got %s, want it refused", args, r)
		}
	}
	if flows := w.laptop.flows(t, "--denied"); !slices.ContainsFunc(flows, func(f flow) bool { return f.Rule == "no-adult" }) {
		t.Errorf("flows --denied: got %+v, want the adult site", flows)
	}
	w.nothingInClear(t)
}
