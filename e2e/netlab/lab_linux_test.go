package netlab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"penstock/e2e/netlab"
	"penstock/e2e/netlab/netlabtest"
)

func TestMain(m *testing.M) {
	os.Exit(netlab.Enter(func() int {
		if role := os.Getenv(roleVar); role != "" {
			return play(role)
		}
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}))
}

func TestEveryServiceIsReachableAsDrawn(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	for _, row := range []struct {
		sentence string
		host     *netlab.Host
		url      string
		want     string // the body, or part of the error
	}{
		{"the laptop fetches a public site over HTTP", lab.Laptop, "http://public.example/", "this is public.example\n"},
		{"the laptop fetches a public site over TLS", lab.Laptop, "https://news.example/", "this is news.example\n"},
		{"the laptop fetches the gambling site", lab.Laptop, "https://casino.example/", "this is casino.example\n"},
		{"the laptop fetches the adult site", lab.Laptop, "https://adult.example/", "this is adult.example\n"},
		{"a literal IPv6 address has a certificate", lab.Laptop, "https://[2001:db8:113::10]/", "this is [2001:db8:113::10]\n"},
		{"the laptop cannot resolve the intranet", lab.Laptop, "http://intranet.corp.example/", "nxdomain"},
		{"the laptop has no route to the intranet", lab.Laptop, "http://10.20.0.10/", "unreachable"},
		{"the gateway reaches the intranet by name", lab.Gateway, "https://intranet.corp.example/", "this is intranet.corp.example\n"},
		{"the gateway reaches the intranet over IPv6", lab.Gateway, "http://[fd20::10]/", "this is [fd20::10]\n"},
		{"the gateway reaches public sites", lab.Gateway, "http://public.example/", "this is public.example\n"},
		{"the gateway does not forward for the intranet", lab.Intranet, "http://203.0.113.10/", "timeout"},
		{"a closed port refuses", lab.Laptop, "http://public.example:4/", "connection refused"},
		{"a dead address is silent", lab.Laptop, "http://dead.example/", "timeout"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			got, err := get(t.Context(), lab.Client(row.host), row.url)
			if err != nil {
				got = err.Error()
			}
			if err == nil && got != row.want || !strings.Contains(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

// get fetches a page within 2 s.
func get(ctx context.Context, client *http.Client, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err) {
		return "", errors.New("timeout")
	}
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestEcho(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	for _, row := range []struct {
		sentence, network, address string
		size                       int
	}{
		{"TCP over IPv4", "tcp4", "echo.example:7", 100_000},
		{"TCP over IPv6", "tcp6", "echo.example:7", 100_000},
		{"a small datagram", "udp4", "echo.example:7", 10},
		{"a small datagram over IPv6", "udp6", "echo.example:7", 10},
		{"a datagram in fragments", "udp4", "echo.example:7", 4000},
		{"the largest datagram", "udp4", "echo.example:7", 65507},
		{"the largest datagram over IPv6", "udp6", "echo.example:7", 65527},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			conn, err := lab.Laptop.DialContext(t.Context(), row.network, row.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			want := bytes.Repeat([]byte("x"), row.size)
			go conn.Write(want)
			got := make([]byte, row.size)
			if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if n, err := io.ReadFull(conn, got); err != nil {
				t.Errorf("got %d bytes and %v, want %d", n, err, row.size)
			}
		})
	}
}

func TestClosedUDPPortIsUnreachable(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	conn, err := lab.Laptop.DialContext(t.Context(), "udp", net.JoinHostPort(netlab.PublicSite, fmt.Sprint(netlab.ClosedPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want %v", err, syscall.ECONNREFUSED)
	}
}

func TestPagesAndSinks(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	client := lab.Client(lab.Laptop)
	body, err := get(t.Context(), client, "https://public.example/bytes/1000000")
	if err != nil || len(body) != 1_000_000 || body[250] != 250 || body[251] != 0 {
		t.Errorf("bytes: got %d bytes and %v, want 1000000 of the pattern", len(body), err)
	}
	if body, err = get(t.Context(), client, "http://public.example/drip/3"); err != nil || body != "..." {
		t.Errorf("drip: got %q and %v, want three dots", body, err)
	}
	if body, err = get(t.Context(), client, "http://public.example/client"); !strings.HasPrefix(body, netlab.LaptopIPv4+":") {
		t.Errorf("client: got %q and %v, want the laptop's address", body, err)
	}
	resp, err := client.Post("https://public.example/sink", "text/plain", strings.NewReader("12345"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	conn, err := lab.Laptop.DialContext(t.Context(), "tcp", "echo.example:9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("678")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	if got := lab.PublicSink.Bytes(); got != 8 {
		t.Errorf("sink: got %d bytes, want 8", got)
	}
}

func TestResolversTellWhatTheyWereAsked(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	if err := lab.PublicDNS.Add("www.public.example. 60 IN CNAME public.example."); err != nil {
		t.Fatal(err)
	}
	addrs, err := lab.Laptop.Lookup(t.Context(), "www.public.example")
	if got := fmt.Sprint(addrs, err); got != "[203.0.113.10 2001:db8:113::10] <nil>" {
		t.Errorf("got %s, want both addresses of public.example", got)
	}
	if _, err := lab.Laptop.Lookup(t.Context(), netlab.IntranetSite); !isNotFound(err) {
		t.Errorf("public DNS, intranet name: got %v, want not found", err)
	}
	if addrs, err = lab.Gateway.Lookup(t.Context(), netlab.WikiSite); err != nil || addrs[0].String() != netlab.IntranetIPv4 {
		t.Errorf("intranet DNS, intranet name: got %v, %v, want %s", addrs, err, netlab.IntranetIPv4)
	}
	if got := lab.AccessDNS.Asked(netlab.IntranetSite); got != 2 {
		t.Errorf("the access network was asked for the intranet %d times, want 2 (A and AAAA)", got)
	}
	if q := lab.AccessDNS.Queries()[0]; q.Client.Addr().String() != netlab.LaptopIPv4 || q.Network != "udp" || q.Type != "A" {
		t.Errorf("first query: got %+v, want A over udp from the laptop", q)
	}
	if got := lab.PublicDNS.Asked("www.public.example"); got != 0 {
		t.Errorf("the public resolver was asked %d times, want 0: the laptop uses the access network's", got)
	}
}

func isNotFound(err error) bool {
	var dnsErr *net.DNSError
	return errors.As(err, &dnsErr) && dnsErr.IsNotFound
}

func TestAnUplinkGoesAndTheOtherComes(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	client := lab.Client(lab.Laptop)
	const url = "http://203.0.113.10/client"
	if err := lab.Disconnect(lab.Uplinks[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t.Context(), client, url); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("no uplink: got %v, want %v", err, syscall.ENETUNREACH)
	}
	if err := lab.Connect(lab.Uplinks[1], 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, url := range []string{url, "http://[2001:db8:113::10]/client"} {
			if body, err := get(t.Context(), client, url); !strings.Contains(body, netlab.Laptop2IPv4) && !strings.Contains(body, netlab.Laptop2IPv6) {
				t.Errorf("second uplink: got %q, %v, want the second address", body, err)
			}
		}
		// With a worse metric the first uplink comes back but is not used.
		if err := lab.Connect(lab.Uplinks[0], 2000); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProgramsRunInsideTheirHost(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	if err := lab.Laptop.WriteFile("/run/mine", []byte("laptop")); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ sentence, script, want string }{
		{"it sees its own resolv.conf", "cat /etc/resolv.conf", "nameserver 192.168.50.1\n"},
		{"it sees its own /run", "cat /run/mine", "laptop"},
		{"it can replace resolv.conf by rename", "echo nameserver 192.0.2.9 > /etc/x && mv /etc/x /etc/resolv.conf && cat /etc/resolv.conf", "nameserver 192.0.2.9\n"},
		{"the lab's CA is in a file", "head -1 " + netlab.CAFile, "-----BEGIN CERTIFICATE-----\n"},
		{"what the machine has in /etc is there", "test -e /etc/passwd && test -d /etc/ssl && echo yes", "yes\n"},
		{"it sees its own links", "ls /proc/sys/net/ipv4/conf | tr '\\n' ' '", "all default lan0 lan1 lo "},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			got, err := lab.Laptop.Command(t.Context(), "sh", "-c", row.script).Output()
			if err != nil || string(got) != row.want {
				t.Errorf("got %q, %v, want %q", got, err, row.want)
			}
		})
	}
	if b, err := lab.Gateway.ReadFile("/etc/resolv.conf"); err != nil || string(b) != "nameserver 10.20.0.10\n" {
		t.Errorf("the gateway's resolv.conf: got %q, %v", b, err)
	}
	if _, err := lab.Gateway.ReadFile("/run/mine"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the laptop's file on the gateway: got %v, want %v", err, os.ErrNotExist)
	}
	var exit *exec.ExitError
	if _, err := lab.Laptop.Command(t.Context(), "sh", "-c", "echo why >&2; exit 3").Output(); !errors.As(err, &exit) || exit.ExitCode() != 3 || string(exit.Stderr) != "why\n" {
		t.Errorf("a failing program: got %v, want exit code 3 and its words", err)
	}
}

func TestTwoLabsDoNotSeeEachOther(t *testing.T) {
	a, b := netlabtest.New(t, netlab.Options{}), netlabtest.New(t, netlab.Options{})
	for _, lab := range []*netlab.Lab{a, b} {
		if got, err := get(t.Context(), lab.Client(lab.Laptop), "https://public.example/"); err != nil || got != "this is public.example\n" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if got, _ := a.AccessDNS.Asked(netlab.PublicSite), b.AccessDNS.Asked(netlab.PublicSite); got != 2 {
		t.Errorf("the first lab's resolver was asked %d times, want 2", got)
	}
	if _, err := (&http.Client{Transport: &http.Transport{DialContext: a.Laptop.DialContext, TLSClientConfig: b.Client(b.Laptop).Transport.(*http.Transport).TLSClientConfig, DisableKeepAlives: true}}).Get("https://public.example/"); err == nil {
		t.Error("the second lab's CA is good for the first lab's sites, want a certificate error")
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	netlabtest.Require(t)
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	lab, err := netlab.New(t.Context(), netlab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// A child, and an orphaned grandchild.
	child := lab.Laptop.Command(t.Context(), "sleep", "600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if err := lab.Gateway.Command(t.Context(), "sh", "-c", "setsid sleep 600 >/dev/null 2>&1 &").Run(); err != nil {
		t.Fatal(err)
	}
	capture, err := lab.Access.Capture("lan")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lab.Access.Impair("lan", netlab.Impairment{Loss: 1}); err != nil {
		t.Fatal(err)
	}
	if err := lab.Close(); err != nil {
		t.Error(err)
	}
	if err := child.Wait(); err == nil {
		t.Error("the child ended well, want killed")
	}
	capture.Stop()
	if _, err := lab.Laptop.ReadFile("/run/netlab/ca.pem"); !errors.Is(err, netlab.ErrClosed) {
		t.Errorf("closed host: got %v, want %v", err, netlab.ErrClosed)
	}
	if _, err := lab.Laptop.DialContext(t.Context(), "tcp", "203.0.113.10:80"); !errors.Is(err, netlab.ErrClosed) {
		t.Errorf("closed host: got %v, want %v", err, netlab.ErrClosed)
	}
	// Threads and processes end shortly after they are killed.
	var left []string
	for range 500 {
		if left = strangers(t, home); len(left) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("left behind: %v", left)
}

// strangers returns every thread, process and descriptor of ours that is in, or holds, a network namespace other than home. It
// does not distinguish those of other labs, so the test must run alone.
func strangers(t *testing.T, home string) []string {
	t.Helper()
	var left []string
	for _, pattern := range []string{"/proc/self/task/*/ns/net", "/proc/self/fd/*", "/proc/[0-9]*/ns/net"} {
		links, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			target, err := os.Readlink(link)
			if err != nil || !strings.HasPrefix(target, "net:[") || target == home {
				continue
			}
			if strings.HasPrefix(link, "/proc/self") || ours(strings.Split(link, "/")[2]) {
				left = append(left, link+" "+target)
			}
		}
	}
	return left
}

// ours reports whether a process is a child of this test, which sleeps for ten minutes.
func ours(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/cmdline")
	return err == nil && string(b) == "sleep\x00600\x00"
}

func TestWithoutEnterThereIsAReason(t *testing.T) {
	t.Setenv("PENSTOCK_NETLAB", "")
	if err := netlab.Available(t.Context()); !errors.Is(err, netlab.ErrUnavailable) || !strings.Contains(err.Error(), "netlab.Enter") {
		t.Errorf("got %v, want %v naming netlab.Enter", err, netlab.ErrUnavailable)
	}
	t.Setenv("PENSTOCK_NETLAB", "user namespaces are closed")
	if _, err := netlab.New(t.Context(), netlab.Options{}); !errors.Is(err, netlab.ErrUnavailable) || !strings.Contains(err.Error(), "are closed") {
		t.Errorf("got %v, want %v with the reason", err, netlab.ErrUnavailable)
	}
}
