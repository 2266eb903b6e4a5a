package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// ovpnServer is what a company's server pushes: its resolver for its domain, and its network.
const ovpnServer = `port 1194
proto PROTO
dev ovpn0
dev-type tun
topology subnet
server 10.98.0.0 255.255.255.0
ca DIR/ca.pem
cert DIR/server.pem
key DIR/server.key
dh none
keepalive 2 8
push "dhcp-option DNS 10.20.0.10"
push "dhcp-option DOMAIN-SEARCH corp.example"
push "redirect-gateway def1"
duplicate-cn
verb 3
`

const ovpnClient = `client
dev tun
proto PROTO
remote 198.51.100.10 1194
remote-cert-tls server
nobind
<ca>
CA</ca>
<cert>
CERT</cert>
<key>
KEY</key>
`

// newOpenVPNWorld is a world whose gateway runs Debian's openvpn, and whose laptop has nothing but its .ovpn file.
func newOpenVPNWorld(t *testing.T, proto string) *world {
	t.Helper()
	w := newWorld(t, "corp: {wireguard: {config: corp.conf}}", "corp: {openvpn: {config: corp.ovpn}}",
		"dns:\n  upstreams: [{address: 10.99.0.1, via: corp}]\n  split: [{domains: [corp.example], upstream: {address: 10.99.0.1, via: corp}}]\n", "")
	ca, caKey := certificate(t, "lab CA", 0, nil, nil)
	w.write(t, "ca.pem", block("CERTIFICATE", ca.Raw))
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: time.Now().Add(-time.Hour),
	}, ca, caKey)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "expired-crl.pem", block("X509 CRL", crl))
	for name, usage := range map[string]x509.ExtKeyUsage{"server": x509.ExtKeyUsageServerAuth, "client": x509.ExtKeyUsageClientAuth} {
		cert, key := certificate(t, name, usage, ca, caKey)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		w.write(t, name+".pem", block("CERTIFICATE", cert.Raw))
		w.write(t, name+".key", block("PRIVATE KEY", der))
		if name == "client" {
			w.write(t, "corp.ovpn", strings.NewReplacer("PROTO", strings.TrimSuffix(proto, "-server"), "CA", block("CERTIFICATE", ca.Raw),
				"CERT", block("CERTIFICATE", cert.Raw), "KEY", block("PRIVATE KEY", der)).Replace(ovpnClient))
		}
	}
	w.write(t, "server.conf", strings.NewReplacer("PROTO", proto, "DIR", w.dir).Replace(ovpnServer))
	if err := w.Gateway.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	if err := w.Internet.AddRoute(netlab.Route{Dst: netip.MustParsePrefix("10.98.0.0/24"), Via: netip.MustParseAddr(netlab.GatewayIPv4)}); err != nil {
		t.Fatal(err)
	}
	w.capture, err = w.Access.Capture("lan", netlab.Endpoint{Network: proto[:3], Addr: netip.MustParseAddrPort(netlab.GatewayIPv4 + ":1194")})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.capture.Control(t.Context(), w.Laptop, "lan0"); err != nil {
		t.Fatal(err)
	}
	return w
}

// certificate makes a certificate and its key, signed by ca or by itself.
func certificate(t *testing.T, name string, usage x509.ExtKeyUsage, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: ca == nil,
	}
	if ca == nil {
		ca, caKey = c, key
	} else {
		c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{usage}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// serveOpenVPN runs Debian's server on the gateway and returns how to kill it.
func (w *world) serveOpenVPN(t *testing.T) (kill func()) {
	t.Helper()
	cmd := w.Gateway.Command(context.WithoutCancel(t.Context()), program(t, "openvpn"), "--config", w.path("server.conf"))
	said := new(transcript)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = cmd.Wait() // killed
	}()
	kill = func() { _ = cmd.Process.Kill(); <-over }
	t.Cleanup(func() {
		kill()
		if t.Failed() {
			t.Logf("openvpn said:\n%s", said.String())
		}
	})
	eventually(t, "openvpn listens", func() error {
		if !strings.Contains(said.String(), "Initialization Sequence Completed") {
			return fmt.Errorf("openvpn said:\n%s", said.String())
		}
		return nil
	})
	return kill
}

// laptop [pen0 -> penstock] === OpenVPN ===> Debian's openvpn, gateway --- intranet
func TestALaptopWithNothingButItsOvpnFile(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"udp4", "tcp4-server"} {
		t.Run(proto, func(t *testing.T) {
			w := newOpenVPNWorld(t, proto)
			kill := w.serveOpenVPN(t)
			w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
			w.connected(t)
			tryAll(t, w.Laptop, []attempt{
				{"the intranet by the name that the pushed resolver knows", "curl -4 https://intranet.corp.example/", "this is intranet.corp.example", nil},
				{"a public site", "curl -4 https://public.example/", "this is public.example", nil},
				{"a gambling site has no address", "curl https://casino.example/", "", []int{noSuchName}},
				{"nor is it reached by its address", "curl --resolve casino.example:443:" + gamblingIPv4 + " https://casino.example/", "", []int{35, 56}},
				{"a closed port is refused", "curl http://intranet.corp.example:4/", "", []int{notConnected}},
				{"a ping of 4,000 bytes", "ping -n -c 1 -W 5 -s 4000 10.20.0.10", "1 received", nil},
			})
			t.Logf("100 MB came whole over %s, %.0f MB/s", proto, w.wholeFile(t, 100_000_000))

			kill()
			eventually(t, "the laptop says that the server is gone", func() error {
				var s struct{ State, Reason string }
				w.laptop.ask(t, &s, "status")
				if s.State == "connected" || s.Reason == "" {
					return fmt.Errorf("state %s, reason %q", s.State, s.Reason)
				}
				return nil
			})
			if r := run(t, w.Laptop, "curl", "-sS", "--max-time", "3", "--resolve", "casino.example:443:"+gamblingIPv4, "https://casino.example/"); r.code == 0 {
				t.Errorf("a blocked site was reached while the server was gone: %s", r)
			}
			w.serveOpenVPN(t)
			took := figures{}
			took.add("from the server's return to carrying, "+proto, w.untilCarrying(t))
			took.log(t)
			w.nothingInClear(t)
		})
	}
}

// laptop, first with Debian's client and a TUN of the kernel, then with penstock === OpenVPN ===> Debian's openvpn --- intranet
func TestOpenVPNBesideTheCClient(t *testing.T) {
	t.Parallel()
	megabytes := 10
	if soaking() { // for figures
		megabytes = 100
	}
	for _, proto := range []string{"udp4", "tcp4-server"} {
		w := newOpenVPNWorld(t, proto)
		w.serveOpenVPN(t)
		theirs := w.Laptop.Command(context.WithoutCancel(t.Context()), program(t, "openvpn"), "--config", w.path("corp.ovpn"))
		said := new(transcript)
		theirs.Stdout = said
		if err := theirs.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "Debian's client is connected", func() error {
			if !strings.Contains(said.String(), "Initialization Sequence Completed") {
				return fmt.Errorf("it said:\n%s", said.String())
			}
			return nil
		})
		measure := func(pid int) (speed [2]float64, effort [2]string) {
			w.wholeFile(t, megabytes*100_000) // warm
			for i, carry := range []func(*testing.T, int) float64{w.wholeFile, w.sunk} {
				calls := callsOf(t, pid)
				before := effortOf(t, pid)
				speed[i] = carry(t, megabytes*1_000_000)
				after := effortOf(t, pid)
				effort[i] = fmt.Sprintf("%.1f ms of CPU, %.0f wake-ups and %s per MB", (after.cpu-before.cpu)*1e3/float64(megabytes),
					(after.wakes-before.wakes)/float64(megabytes), calls(megabytes))
			}
			return speed, effort
		}
		c, theirEffort := measure(theirs.Process.Pid)
		if err := theirs.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		_ = theirs.Wait() // interrupted
		w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
		w.connected(t)
		ours, effort := measure(w.laptop.cmd.Process.Pid)
		for i, way := range []string{"down", "up"} {
			t.Logf("%-12s %-4s  C client %4.0f MB/s  penstock %4.0f MB/s  ratio %.2f", proto, way, c[i], ours[i], ours[i]/c[i])
			t.Logf("%-12s %-4s  C client %s; penstock %s", proto, way, theirEffort[i], effort[i])
		}
		w.laptop.stop(t, os.Interrupt)
	}
}

// effort is what a process has done so far.
type effort struct {
	cpu   float64 // seconds
	wakes float64 // of its threads that have not ended
}

func effortOf(t *testing.T, pid int) (e effort) {
	t.Helper()
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) { // a thread may have ended
			t.Fatal(err)
		}
		return string(b)
	}
	dir := fmt.Sprintf("/proc/%d", pid)
	stat := read(dir + "/stat")
	if fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]); len(fields) > 12 { // from the state, which is the third
		var user, system float64
		fmt.Sscan(fields[11], &user)
		fmt.Sscan(fields[12], &system)
		e.cpu = (user + system) / 100 // clock ticks, on every Linux
	}
	threads, err := filepath.Glob(dir + "/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		_, count, _ := strings.Cut(read(thread), "\nvoluntary_ctxt_switches:")
		var n float64
		fmt.Sscan(count, &n)
		e.wakes += n
	}
	return e
}

// callsOf counts the system calls of a process from now on, where there is perf. It slows them down, so only figures want it.
func callsOf(t *testing.T, pid int) (perMegabyte func(megabytes int) string) {
	t.Helper()
	perf, err := exec.LookPath("perf")
	if !soaking() || err != nil {
		return func(int) string { return "uncounted system calls" }
	}
	cmd := exec.CommandContext(t.Context(), perf, "stat", "--field-separator", ",", "--event", "raw_syscalls:sys_enter", "--pid", strconv.Itoa(pid))
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func(megabytes int) string {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // interrupted
		var n float64
		if _, err := fmt.Sscan(said.String()[:strings.IndexByte(said.String()+",", ',')], &n); err != nil {
			return "uncounted system calls, for perf says " + strings.TrimSpace(said.String())
		}
		return fmt.Sprintf("%.0f system calls", n/float64(megabytes))
	}
}

// sunk sends n bytes to the intranet's sink and waits until they have been counted.
func (w *world) sunk(t *testing.T, n int) (megabytesPerSecond float64) {
	t.Helper()
	before := w.IntranetSink.Bytes()
	start := time.Now()
	conn := dial(t, w.Laptop, "tcp", fmt.Sprintf("%s:%d", netlab.IntranetIPv4, netlab.SinkPort))
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	for left := n; left > 0; left -= len(buf) {
		buf = buf[:min(len(buf), left)]
		if _, err := conn.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	conn.Close()
	for w.IntranetSink.Bytes()-before < int64(n) && time.Since(start) < 2*patience {
		time.Sleep(time.Millisecond)
	}
	if got := w.IntranetSink.Bytes() - before; got != int64(n) {
		t.Fatalf("%d bytes arrived, want %d", got, n)
	}
	return float64(n) / 1e6 / time.Since(start).Seconds()
}

// wholeFile fetches a file of n bytes through the tunnel and checks every one.
func (w *world) wholeFile(t *testing.T, n int) (megabytesPerSecond float64) {
	t.Helper()
	start := time.Now()
	res, err := w.Client(w.Laptop).Get(fmt.Sprintf("http://%s/bytes/%d", netlab.IntranetIPv4, n))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf, at := make([]byte, 64<<10), 0
	for {
		m, err := res.Body.Read(buf)
		for _, b := range buf[:m] {
			if b != byte(at%251) {
				t.Fatalf("byte %d is %d, want %d", at, b, at%251)
			}
			at++
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("after %d bytes: %v", at, err)
		}
	}
	if at != n {
		t.Errorf("got %d bytes, want %d", at, n)
	}
	return float64(n) / 1e6 / time.Since(start).Seconds()
}

// laptop [penstock, whose .ovpn file does not say whom it trusts] === OpenVPN ===> Debian's openvpn, gateway
func TestOpenVPNSaysWhomItTrusts(t *testing.T) {
	t.Parallel()
	w := newOpenVPNWorld(t, "udp4")
	w.serveOpenVPN(t)
	good := w.read(t, "corp.ovpn")
	t.Run("a file without remote-cert-tls is warned of everywhere", func(t *testing.T) {
		w.edit(t, "corp.ovpn", "remote-cert-tls server\n", "")
		warned := func(who, said string) {
			t.Helper()
			if !strings.Contains(said, "remote-cert-tls") || !strings.Contains(said, "corp") {
				t.Errorf("%s: got\n%s\nwant a warning of corp and remote-cert-tls", who, said)
			}
		}
		r := run(t, w.Laptop, built("penstock"), "check", "-c", w.path("laptop.yaml"))
		if r.code != 0 {
			t.Errorf("check: %s", r)
		}
		warned("check", r.stdout+r.stderr)
		w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
		w.connected(t)
		warned("run", w.laptop.said.String())
		warned("status", w.laptop.must(t, "status"))
		w.laptop.stop(t, os.Interrupt)
	})
	t.Run("and refused where that is asked for", func(t *testing.T) {
		w.edit(t, "laptop.yaml", "config: corp.ovpn", "config: corp.ovpn, require_server_cert: true")
		defer w.edit(t, "laptop.yaml", ", require_server_cert: true", "")
		if r := run(t, w.Laptop, built("penstock"), "check", "-c", w.path("laptop.yaml")); r.code != exitConfig || !strings.Contains(r.stderr, "remote-cert-tls server") {
			t.Errorf("check: got %s, want it refused for the missing line", r)
		}
	})
	t.Run("a list of revoked certificates that has expired lets nobody in", func(t *testing.T) {
		w.write(t, "corp.ovpn", good+"crl-verify expired-crl.pem\n")
		w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
		eventually(t, "status says why not", func() error {
			r := w.laptop.cli(t, "status")
			if r.code == 0 {
				t.Fatalf("status: got %s, want not connected", r)
			}
			if said := r.stdout + w.laptop.said.String(); !strings.Contains(said, "revoc") && !strings.Contains(said, "CRL") {
				return fmt.Errorf("status: %s", r)
			}
			return nil
		})
	})
}

// laptop [pen0 -> penstock] --- access --- internet
//
//	\=== OpenVPN ===> Debian's openvpn, gateway --- intranet
//
// A company's profile as its user knows it: the server routes only its own network, and the rest stays outside, filtered.
func TestAnOpenVPNServerThatRoutesOnlyItsNetwork(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence, push, profile string
		tunnelled               bool // the public site
	}{
		{"routes alone", "push \"route 10.20.0.0 255.255.255.0\"\n", "", false},
		{"a resolver for its domain", "push \"route 10.20.0.0 255.255.255.0\"\npush \"dhcp-option DNS 10.20.0.10\"\npush \"dhcp-option DOMAIN-ROUTE corp.example\"\n", "", false},
		{"a resolver for its domain, which the profile names itself", "push \"route 10.20.0.0 255.255.255.0\"\n", "dhcp-option DNS 10.20.0.10\ndhcp-option DOMAIN-ROUTE corp.example\n", false},
		{"a public resolver without a route to it", "push \"route 10.20.0.0 255.255.255.0\"\npush \"dhcp-option DNS 203.0.113.53\"\n", "", false},
		{"everything, but the profile takes only its own route", "push \"redirect-gateway def1\"\n", "route-nopull\nroute 10.20.0.0 255.255.255.0\n", false},
		{"everything but one site", "push \"redirect-gateway def1\"\npush \"route 203.0.113.11 255.255.255.255 net_gateway\"\npush \"dhcp-option DNS 10.20.0.10\"\n", "", true},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w := newOpenVPNWorld(t, "udp4")
			server := w.read(t, "server.conf")
			for _, line := range []string{"push \"dhcp-option DNS 10.20.0.10\"\n", "push \"dhcp-option DOMAIN-SEARCH corp.example\"\n", "push \"redirect-gateway def1\"\n"} {
				server = strings.Replace(server, line, "", 1)
			}
			w.write(t, "server.conf", server+row.push)
			w.write(t, "corp.ovpn", row.profile+w.read(t, "corp.ovpn"))
			w.write(t, "laptop.yaml", strings.Replace("listen:\n  tun: {name: pen0, state_file: DIR/host.json}\nprofile: corp.ovpn\nblock: [gambling]\n"+
				"categories:\n  gambling: {lists: [{file: gambling.txt}]}\n", "DIR", w.dir, 1))
			w.serveOpenVPN(t)
			w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
			w.connected(t)
			from := "192.168.50.10:" // outside
			if row.tunnelled {
				from = "10.98.0."
			}
			rows := []attempt{
				{"the company's network", "curl -4 --resolve intranet.corp.example:80:10.20.0.10 http://intranet.corp.example/client", "10.98.0.", nil},
				{"a public site by its name", "curl -4 http://public.example/client", from, nil},
				{"an exception, or what is outside anyway", "curl -4 --resolve news.example:80:203.0.113.11 http://news.example/client", "192.168.50.10:", nil},
				{"a gambling site has no address", "curl https://casino.example/", "", []int{noSuchName}},
				{"nor is it reached by its address", "curl --resolve casino.example:443:" + gamblingIPv4 + " https://casino.example/", "", []int{35, 56}},
			}
			if strings.Contains(row.push+row.profile, "DNS 10.20") {
				rows = append(rows, attempt{"the company's names", "curl -4 http://intranet.corp.example/client", "10.98.0.", nil})
			}
			eventually(t, "what the server routes is known", func() error {
				if r := run(t, w.Laptop, "curl", "-4", "-sS", "-m", "2", "http://public.example/client"); !strings.HasPrefix(r.stdout, from) {
					return fmt.Errorf("got %s, want %s", r, from)
				}
				return nil
			})
			tryAll(t, w.Laptop, rows)
			if strings.Contains(row.push+row.profile, "DOMAIN-ROUTE") {
				if n := w.AccessDNS.Asked("public.example"); n == 0 {
					t.Error("the network was not asked for a public name: the company's resolver is only for its domain")
				}
				if n := w.AccessDNS.Asked("intranet.corp.example"); n > 0 {
					t.Errorf("the network was asked for a company name %d times", n)
				}
			}
			if x := w.laptop.must(t, "explain", "http://203.0.113.11"); !strings.Contains(x, "does not route the destination") {
				t.Errorf("explain does not say why a flow goes direct:\n%s", x)
			}
		})
	}
}

// laptop [pen0 -> penstock, from an .ovpn file] === OpenVPN, the networks that the server pushes ===> gateway --- intranet
func TestAServerThatChangesWhatItRoutes(t *testing.T) {
	t.Parallel()
	w := newOpenVPNWorld(t, "udp4")
	w.write(t, "laptop.yaml", w.fill.Replace("profile: corp.ovpn\nlisten: {tun: {name: pen0, state_file: DIR/host.json}}\n"))
	w.edit(t, "server.conf", `push "redirect-gateway def1"`, `push "route 10.20.0.0 255.255.255.0"`+"\n"+`push "dhcp-option DOMAIN-ROUTE corp.example"`)
	if r := run(t, w.Laptop, built("penstock"), "check", "-c", w.path("laptop.yaml")); r.code != 0 || !strings.Contains(r.stderr, "its server decides") {
		t.Errorf("check: got %s, want a warning about the server's routes", r)
	}
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	for _, url := range []string{"http://203.0.113.10/", "http://public.example/"} {
		if r := run(t, w.Laptop, "curl", "-sS", "--max-time", "2", url); r.code == 0 {
			t.Errorf("%s was reached before the server said what goes through the tunnel: %s", url, r)
		}
	}
	if n := w.AccessDNS.Asked("public.example"); n > 0 {
		t.Errorf("the network was asked for a name %d times before the server said what goes through the tunnel", n)
	}

	kill := w.serveOpenVPN(t)
	w.connected(t)
	tryAll(t, w.Laptop, []attempt{
		{"the intranet by a name that the pushed resolver knows", "curl -4 https://intranet.corp.example/", "this is intranet.corp.example", nil},
		{"a public site by its address", "curl http://203.0.113.10/", "this is 203.0.113.10\n", nil},
		{"and over IPv6, which the server does not route", "curl -6 http://public.example/", "this is public.example", nil},
		{"a public site by a name that the network resolves", "curl -4 https://public.example/", "this is public.example", nil},
	})
	explain := func(want map[string]string) {
		t.Helper()
		for target, egress := range want {
			if r := w.laptop.cli(t, "explain", target); r.code != 0 || !strings.Contains(r.stdout, egress) {
				t.Errorf("explain %s: got %s, want %s", target, r, egress)
			}
		}
	}
	explain(map[string]string{"203.0.113.10:80": "direct", "10.20.0.10:80": "via corp", "10.98.0.1:80": "via corp"})
	if n := w.AccessDNS.Asked("intranet.corp.example"); n > 0 {
		t.Errorf("the network was asked for a company name %d times", n)
	}

	kill()
	eventually(t, "the rest goes on while the server is gone, and the intranet is held", func() error {
		if r := run(t, w.Laptop, "curl", "-sS", "--max-time", "2", "http://10.20.0.10/"); r.code == 0 {
			return fmt.Errorf("the intranet: %s", r)
		}
		if r := run(t, w.Laptop, "curl", "-sS", "--max-time", "2", "http://203.0.113.10/"); r.code != 0 {
			return fmt.Errorf("a public site: %s", r)
		}
		return nil
	})

	w.edit(t, "server.conf", `push "dhcp-option DOMAIN-ROUTE corp.example"`, `push "redirect-gateway def1"`)
	w.serveOpenVPN(t)
	eventually(t, "the server wants everything", func() error {
		if r := w.laptop.cli(t, "explain", "203.0.113.10:80"); !strings.Contains(r.stdout, "via corp") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	explain(map[string]string{"[2001:db8::1]:80": "via corp", "10.20.0.10:80": "via corp"})
	tryAll(t, w.Laptop, []attempt{
		{"a public site through the tunnel", "curl -4 https://public.example/", "this is public.example", nil},
		{"and not over IPv6, which the tunnel does not carry", "curl -6 http://public.example/", "", []int{noSuchName, notConnected}},
	})
}
