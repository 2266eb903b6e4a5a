package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// proxyAt is where the gateway's proxy listens.
const proxyAt = netlab.GatewayIPv4 + ":1080"

// listenForProxy gives the gateway a proxy port, and lets ana of the staff and ben of the contractors use it, with passwords alone.
func (w *world) listenForProxy(t *testing.T, rules string) {
	t.Helper()
	if err := os.Mkdir(w.path("peers.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.edit(t, "gateway.yaml", "listen:\n", "listen:\n  proxy: {address: \""+proxyAt+"\"}\n")
	w.edit(t, "gateway.yaml", rulesOf(t, w, "gateway.yaml"), rules)
	for name, group := range map[string]string{"ana": "staff", "ben": "contractors"} {
		w.write(t, name+".password", "secret-of-"+name+"\n")
		w.write(t, "peers.d/"+name+".yaml", fmt.Sprintf("peers: [{name: %s, proxy_password: {file: ../%s.password}, groups: [%s]}]\n", name, name, group))
	}
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"), w.environ...)
}

// through is the URL of the proxy for a user, with a scheme such as socks5h.
func through(scheme, user string) string {
	return scheme + "://" + user + ":secret-of-" + user + "@" + proxyAt
}

// curl fetches what args say on the laptop, which knows no name of the world.
func (w *world) curl(t *testing.T, args ...string) result {
	t.Helper()
	return run(t, w.Laptop, program(t, "curl"), append([]string{"-sS", "--max-time", "15", "--cacert", netlab.CAFile}, args...)...)
}

const proxyRules = `rules:
  - {name: no-gambling, match: {domain: casino.example}, do: block}
  - {name: intranet, match: {cidr: [10.20.0.0/24, "fd20::/64"], group: [staff]}, do: direct}
  - {name: no-private, match: {cidr: private}, do: block}
  - {name: rest, do: direct}
`

// laptop: curl --- access --- SOCKS5, HTTP ---> [penstock] gateway --- internet, intranet
func TestProxyByCurl(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.listenForProxy(t, proxyRules)

	t.Run("who reaches what", func(t *testing.T) {
		for _, row := range []struct {
			url      string
			ana, ben bool
		}{
			{"https://public.example/", true, true},
			{"http://public.example/", true, true},
			{"http://" + publicIPv4 + "/", true, true},
			{"http://[" + publicIPv6 + "]/", true, true},
			{"https://intranet.corp.example/", true, false},
			{"http://wiki.corp.example/", true, false},
			{"http://" + netlab.IntranetIPv4 + "/", true, false},
			{"http://casino.example/", false, false},
			{"https://casino.example/", false, false},
		} {
			for user, may := range map[string]bool{"ana": row.ana, "ben": row.ben} {
				for _, scheme := range []string{"socks5h", "http"} {
					r := w.curl(t, "-f", "-x", through(scheme, user), row.url)
					_, host, _ := strings.Cut(strings.TrimSuffix(row.url, "/"), "://")
					if reached := r.code == 0 && r.stdout == "this is "+host+"\n"; reached != may {
						t.Errorf("%s to %s over %s: got %s, want reached: %v", user, row.url, scheme, r, may)
					}
					refused := []int{97, 56, 22} // SOCKS5, CONNECT, and -f
					if !may && !slices.Contains(refused, r.code) {
						t.Errorf("%s to %s over %s: got %s, want it refused in the words of the protocol", user, row.url, scheme, r)
					}
				}
			}
		}
		if q := w.AccessDNS.Queries(); len(q) > 0 {
			t.Errorf("the laptop asked its own resolver for %v: names are the proxy's to resolve", q)
		}
		f := w.gateway.deniedOne(t, "of ben to the intranet", func(f flow) bool { return f.Peer == "ben" && f.Dst == netlab.IntranetIPv4+":80" })
		if f.Rule != "no-private" {
			t.Errorf("got %+v, want it refused by no-private", f)
		}
		w.gateway.deniedOne(t, "of ana to the casino", func(f flow) bool { return f.Peer == "ana" && f.Host == netlab.GamblingSite && f.Rule == "no-gambling" })
	})
	t.Run("a name inside the flow is judged too", func(t *testing.T) {
		for _, scheme := range []string{"socks5h", "http"} {
			if r := w.curl(t, "-x", through(scheme, "ana"), "--connect-to", "casino.example:443:public.example:443", "https://casino.example/"); !slices.Contains(cutOff(), r.code) {
				t.Errorf("TLS for the casino at another site over %s: got %s", scheme, r)
			}
		}
		if r := w.curl(t, "-p", "-x", through("http", "ana"), "-H", "Host: casino.example", "http://public.example/"); strings.Contains(r.stdout, "this is") {
			t.Errorf("HTTP for the casino in a tunnel: got %s", r)
		}
		if r := w.curl(t, "-x", through("http", "ana"), "-H", "Host: casino.example", "http://public.example/"); r.stdout != "this is public.example\n" {
			t.Errorf("a request whose Host differs from its URL: got %s, want the URL to count", r)
		}
	})
	t.Run("one connection asks for several hosts, each of which is judged", func(t *testing.T) {
		r := w.curl(t, "-x", through("http", "ana"), "-w", "%{http_code} %{num_connects}\n", "http://public.example/", "http://news.example/", "http://casino.example/")
		const want = "this is public.example\n200 1\nthis is news.example\n200 0\npenstock: rule no-gambling blocks casino.example\n403 0\n"
		if r.stdout != want {
			t.Errorf("got %s, want %q", r, want)
		}
	})
	t.Run("what failed is told as what it is", func(t *testing.T) {
		for _, row := range []struct{ url, socks, http string }{
			{"http://public.example:4/", "(5)", "502"},
			{"http://nobody.example/", "(4)", "502"},
			{"http://10.20.0.200:22/", "(4)", "502"},
		} {
			if r := w.curl(t, "-x", through("socks5h", "ana"), row.url); r.code != 97 || !strings.Contains(r.stderr, row.socks) {
				t.Errorf("%s over SOCKS5: got %s, want code %s", row.url, r, row.socks)
			}
			for _, way := range []string{"-p", "-s"} { // in a tunnel, and forwarded
				if r := w.curl(t, way, "-x", through("http", "ana"), "-w", "%{http_code}%{http_connect}", row.url); !strings.Contains(r.stdout, row.http) {
					t.Errorf("%s over HTTP %s: got %s, want %s", row.url, way, r, row.http)
				}
			}
		}
	})
	t.Run("a wrong password is refused and counted", func(t *testing.T) {
		const wrong = `penstock_proxy_logins_total{result="wrong"}`
		before := w.metric(t, w.Gateway, wrong)
		for scheme, code := range map[string]int{"socks5h": 97, "http": 56} {
			if r := w.curl(t, "-x", scheme+"://ana:secret-of-ben@"+proxyAt, "https://public.example/"); r.code != code {
				t.Errorf("%s: got %s, want exit code %d", scheme, r, code)
			}
			if r := w.curl(t, "-x", scheme+"://"+proxyAt, "https://public.example/"); r.code != code {
				t.Errorf("%s without a login: got %s, want exit code %d", scheme, r, code)
			}
		}
		if n := w.metric(t, w.Gateway, wrong) - before; n != 2 {
			t.Errorf("got %v wrong passwords, want 2", n)
		}
		for _, secret := range []string{"secret-of-ana", "secret-of-ben"} {
			if strings.Contains(w.gateway.said.String(), secret) {
				t.Errorf("the log has the password %s", secret)
			}
		}
	})
	t.Run("a large file comes whole", func(t *testing.T) {
		for _, args := range [][]string{{"-x", through("socks5h", "ana")}, {"-x", through("http", "ana")}, {"-p", "-x", through("http", "ana")}} {
			r := w.curl(t, append(args, "http://public.example/bytes/20000000")...)
			if want, _ := io.ReadAll(newPattern(20000000)); r.code != 0 || r.stdout != string(want) {
				t.Errorf("%q: exit code %d and %d bytes, want %d that are right", args, r.code, len(r.stdout), len(want))
			}
		}
	})
	t.Run("who is let go is cut off", func(t *testing.T) {
		for _, step := range []struct {
			sentence string
			do       func()
		}{
			{"by another password", func() { w.write(t, "ana.password", "another-secret\n"); w.gateway.must(t, "reload") }},
			{"by expiry", func() {
				end := time.Now().Add(8 * time.Second).UTC().Format(time.RFC3339)
				w.write(t, "peers.d/ana.yaml", "peers: [{name: ana, proxy_password: {file: ../ana.password}, groups: [staff], expires: \""+end+"\"}]\n")
			}},
			{"by removing the file", func() {
				if err := os.Remove(w.path("peers.d/ana.yaml")); err != nil {
					t.Fatal(err)
				}
			}},
		} {
			t.Run(step.sentence, func(t *testing.T) {
				w.write(t, "ana.password", "secret-of-ana\n")
				w.write(t, "peers.d/ana.yaml", "peers: [{name: ana, proxy_password: {file: ../ana.password}, groups: [staff]}]\n")
				w.gateway.must(t, "reload")
				ben := w.drip(t, through("socks5h", "ben"), "https://public.example/drip/1000")
				var hers []*dripping
				for _, scheme := range []string{"socks5h", "http"} {
					for _, url := range []string{"http://public.example/drip/1000", "https://intranet.corp.example/drip/1000"} {
						hers = append(hers, w.drip(t, through(scheme, "ana"), url))
					}
				}
				step.do()
				for _, d := range hers {
					if code := d.end(t); code == 0 {
						t.Errorf("%s ended well", d.what)
					}
				}
				eventually(t, "ana has no flow left", func() error {
					for _, f := range w.gateway.flows(t) {
						if f.Peer == "ana" {
							return fmt.Errorf("one is left: %+v", f)
						}
					}
					return nil
				})
				ben.goesOn(t)
				ben.stop()
				if r := w.curl(t, "-x", through("socks5h", "ana"), "http://public.example/"); r.code != 97 {
					t.Errorf("ana comes in again: %s", r)
				}
			})
		}
	})
}

// dripping is a curl that receives ten bytes a second.
type dripping struct {
	what string
	got  *transcript
	stop context.CancelFunc
	over chan int // its exit code
}

// drip begins a download on the laptop and waits until something of it has come.
func (w *world) drip(t *testing.T, proxy, url string) *dripping {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	d := &dripping{what: proxy + " to " + url, got: new(transcript), stop: cancel, over: make(chan int, 1)}
	cmd := w.Laptop.Command(ctx, program(t, "curl"), "-sN", "--cacert", netlab.CAFile, "-x", proxy, url)
	cmd.Stdout = d.got
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		d.over <- cmd.ProcessState.ExitCode()
	}()
	d.goesOn(t)
	return d
}

func (d *dripping) goesOn(t *testing.T) {
	t.Helper()
	before := len(d.got.String())
	eventually(t, d.what+" goes on", func() error {
		if len(d.got.String()) == before {
			return errors.New("nothing comes")
		}
		return nil
	})
}

// end waits until it has ended and returns its exit code.
func (d *dripping) end(t *testing.T) int {
	t.Helper()
	select {
	case code := <-d.over:
		return code
	case <-time.After(patience):
		t.Errorf("%s goes on", d.what)
		return -1
	}
}

// askProxy sends bytes to the proxy and returns all that it says.
func (w *world) askProxy(t *testing.T, request string) string {
	t.Helper()
	conn := dial(t, w.Laptop, "tcp", proxyAt)
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	_, _ = io.Copy(&said, conn) // it ends however it does
	return said.String()
}

// socksRequest sends an address as one if it is one.
func socksRequest(host string, port int) string {
	const login = "\x05\x01\x02\x01\x03ana\x0dsecret-of-ana"
	end := string([]byte{byte(port >> 8), byte(port)})
	ip := net.ParseIP(host)
	switch {
	case ip == nil:
		return login + "\x05\x01\x00\x03" + string([]byte{byte(len(host))}) + host + end
	case ip.To4() != nil && !strings.Contains(host, ":"):
		return login + "\x05\x01\x00\x01" + string(ip.To4()) + end
	}
	return login + "\x05\x01\x00\x04" + string(ip) + end
}

const proxyLogin = "\r\nProxy-Authorization: Basic YW5hOnNlY3JldC1vZi1hbmE=\r\n\r\n"

func connectRequest(host string, port int) string {
	return "CONNECT " + net.JoinHostPort(strings.Trim(host, "[]"), fmt.Sprint(port)) + " HTTP/1.1\r\nHost: x" + proxyLogin
}

func getRequest(host string, port int) string {
	return "GET http://" + net.JoinHostPort(strings.Trim(host, "[]"), fmt.Sprint(port)) + "/ HTTP/1.1\r\nConnection: close\r\nHost: x" + proxyLogin
}

// laptop: curl --- SOCKS5, HTTP on loopback ---> [penstock] === WireGuard ===> [penstock] gateway --- internet, intranet
func TestALaptopsProxyIsForItsOwnPrograms(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "listen:\n", "listen:\n  proxy: {}\n", "  - {name: intranet,",
		fmt.Sprintf("  - {name: not-me, match: {uid: %d, domain: news.example}, do: block}\n  - {name: intranet,", os.Getuid())).up(t)
	for _, proxy := range []string{"socks5h://127.0.0.1:1080", "socks5h://any:thing@127.0.0.1:1080", "http://127.0.0.1:1080"} {
		for url, may := range map[string]bool{
			"https://public.example/": true, "https://intranet.corp.example/": true, "https://casino.example/": false, "https://news.example/": false, "http://127.0.0.1:9477/": false,
		} {
			if r := w.curl(t, "-f", "-x", proxy, "--noproxy", "", url); (r.code == 0) != may {
				t.Errorf("%s by %s: got %s, want reached: %v", url, proxy, r, may)
			}
		}
	}
	f := w.laptop.deniedOne(t, "to the news", func(f flow) bool { return f.Host == netlab.NewsSite })
	if f.Rule != "not-me" || !strings.HasPrefix(f.Src, "127.0.0.1:") {
		t.Errorf("got %+v, want it refused for the user whose program asks the proxy", f)
	}
	if r := w.laptop.cli(t, "status"); !strings.Contains(r.stdout, "proxy 127.0.0.1:1080") {
		t.Errorf("status: got %s", r)
	}
	w.nothingInClear(t)
}

// laptop: curl --- SOCKS5, HTTP ---> [penstock] gateway --- internet
func TestAQuotaCountsWhatComesByProxy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "gateway.yaml", "dns:\n", "group_limits: {staff: {quota: 1MiB}}\nstate_dir: .\ndns:\n")
	w.listenForProxy(t, proxyRules)
	for _, scheme := range []string{"socks5h", "http"} {
		if r := w.curl(t, "-x", through(scheme, "ana"), "https://public.example/"); r.stdout != "this is public.example\n" {
			t.Fatalf("below the quota over %s: got %s", scheme, r)
		}
		d := w.drip(t, through(scheme, "ana"), "http://public.example/drip/1000")
		if r := w.curl(t, "-o", w.path("large"), "-x", through(scheme, "ana"), "-p", "https://public.example/bytes/3000000"); r.code != 0 {
			t.Logf("the large file was cut off: %s", r)
		}
		if code := d.end(t); code == 0 {
			t.Errorf("%s ended well", d.what)
		}
		if r := w.curl(t, "-f", "-x", through(scheme, "ana"), "https://public.example/"); r.code == 0 {
			t.Errorf("over its quota, over %s: got %s", scheme, r)
		}
		if r := w.curl(t, "-f", "-x", through(scheme, "ben"), "https://public.example/"); r.code != 0 {
			t.Errorf("ben, who has no quota, over %s: got %s", scheme, r)
		}
		w.gateway.deniedOne(t, "over the quota", func(f flow) bool { return f.Peer == "ana" && strings.HasPrefix(f.Reason, "quota: ") })
		if out := w.gateway.must(t, "peer", "show", "ana"); !strings.Contains(out, "of 1.0 MiB") {
			t.Errorf("peer show: got\n%s", out)
		}
		w.gateway.must(t, "peer", "quota", "reset", "ana")
	}
}

// laptop: curl --- SOCKS5, HTTP ---> [penstock] gateway === WireGuard ===> access: wireguard-go, a server
func TestAPeerIsReachedByProxyIfARuleOpensIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "gateway.yaml", "dns:\n", "dns:\n  peers: peers.example\n")
	w.listenForProxy(t, strings.Replace(proxyRules, "rules:\n", "rules:\n  - {name: colleagues, match: {group: [staff], peers: true, port: 8000}, do: direct}\n", 1))
	stock(t, w.Access, w.path("corp.conf"), "10.99.0.0/24")
	senders := make(chan string, 16)
	for _, port := range []string{":8000", ":8001"} {
		serve(t, w.Access, laptopInner4+port, func(c *net.TCPConn) {
			senders <- c.RemoteAddr().(*net.TCPAddr).IP.String()
			_, _ = c.Read(make([]byte, 4096)) // the request: an answer to nothing is not believed
			_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\nthis is a peer\n")
		})
	}
	w.untilPeers(t, "ana idle", "ben idle", "laptop active")
	for _, scheme := range []string{"socks5h", "http"} {
		for _, host := range []string{"laptop.peers.example", laptopInner4} {
			if r := w.curl(t, "-f", "-x", through(scheme, "ana"), "http://"+host+":8000/"); r.stdout != "this is a peer\n" {
				t.Errorf("ana to %s over %s: got %s", host, scheme, r)
				continue
			}
			if from := <-senders; from != gatewayInner4 {
				t.Errorf("the peer sees %s, want the gateway", from)
			}
			for user, port := range map[string]string{"ana": "8001", "ben": "8000"} {
				if r := w.curl(t, "-f", "-x", through(scheme, user), "http://"+host+":"+port+"/"); r.code == 0 {
					t.Errorf("%s to port %s of %s over %s: got %s", user, port, host, scheme, r)
				}
			}
		}
	}
	if n := len(senders); n > 0 {
		t.Errorf("%d connections came that no rule opens", n)
	}
}
