package netlab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
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
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}))
}

func TestEveryServiceIsReachableAsDrawn(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
	for _, row := range []struct {
		sentence string
		host     *netlab.Host
		url      string
		want     string // the body, or part of the error
	}{
		{"the laptop fetches a public site over HTTP", lab.Laptop, "http://public.example/", "this is public.example\n"},
		{"the laptop fetches a public site over TLS", lab.Laptop, "https://news.example/", "this is news.example\n"},
		{"the laptop fetches the gambling site", lab.Laptop, "https://casino.bet-example.test/", "this is casino.bet-example.test\n"},
		{"the laptop fetches the adult site", lab.Laptop, "https://adult-example.test/", "this is adult-example.test\n"},
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
	lab := netlabtest.New(t, netlab.Options{Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
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
	lab := netlabtest.New(t, netlab.Options{Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
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
