package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"penstock/cmd/internal/config"
)

const peerGateway = `include: peers.d/*.yaml
listen: {wireguard: {address: 10.78.0.1/24, private_key: {file: gateway.key}, endpoint: "gw.example:51820"}}
rules: {name: rest, do: direct}
`

// newGateway writes the configuration of a gateway and returns its path.
func newGateway(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"gateway.yaml": peerGateway, "gateway.key": "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "gateway.yaml")
}

// command runs a command line without a daemon and returns its exit code and what it printed.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
	code = execute(t.Context(), e, append(args, "--socket", filepath.Join(t.TempDir(), "none.sock")))
	return code, out.String(), errs.String()
}

func TestPeersAddedAtOnceHaveAddressesOfTheirOwn(t *testing.T) {
	gateway := newGateway(t)
	const n = 8
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			out := filepath.Join(filepath.Dir(gateway), fmt.Sprintf("client%d.conf", i))
			if code, _, stderr := command(t, "peer", "add", fmt.Sprintf("p%d", i), "-c", gateway, "-o", out); code != exitOK {
				t.Errorf("p%d: got exit code %d: %s", i, code, stderr)
			}
		})
	}
	wg.Wait()
	c, err := config.Load(gateway)
	if err != nil {
		t.Fatal(err) // among others if two have the same address
	}
	if c.Peers.Len() != n {
		t.Errorf("got %d peers, want %d", c.Peers.Len(), n)
	}
	for _, p := range c.Peers.All() {
		client, err := os.ReadFile(filepath.Join(filepath.Dir(gateway), "client"+p.Name[1:]+".conf"))
		if err != nil || !strings.Contains(string(client), "Address = "+p.AllowedIPs[0].String()) {
			t.Errorf("%s: got client file %q, %v, want its address %s", p.Name, client, err, p.AllowedIPs[0])
		}
	}
}

func TestOneNameAddedAtOnceIsOnePeer(t *testing.T) {
	gateway := newGateway(t)
	codes := make([]int, 8)
	var wg sync.WaitGroup
	for i := range codes {
		wg.Go(func() {
			out := filepath.Join(filepath.Dir(gateway), fmt.Sprintf("client%d.conf", i))
			codes[i], _, _ = command(t, "peer", "add", "ana", "-c", gateway, "-o", out)
		})
	}
	wg.Wait()
	slices.Sort(codes)
	if want := []int{0, 1, 1, 1, 1, 1, 1, 1}; !slices.Equal(codes, want) {
		t.Errorf("got exit codes %v, want %v", codes, want)
	}
	clients, err := filepath.Glob(filepath.Join(filepath.Dir(gateway), "client*.conf"))
	if err != nil || len(clients) != 1 {
		t.Errorf("got client files %v, %v, want the one that works", clients, err)
	}
}

func TestOutputThatFailsAddsNoPeer(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full here")
	}
	defer full.Close()
	for _, flag := range []string{"", "--qr"} {
		gateway := newGateway(t)
		var errs bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: full, stderr: &errs, getenv: func(string) string { return "" }}
		args := []string{"peer", "add", "ana", "-c", gateway, "--socket", filepath.Join(t.TempDir(), "s")}
		if flag != "" {
			args = append(args, flag)
		}
		if code := execute(t.Context(), e, args); code != exitFailure || !strings.Contains(errs.String(), "print the peer's configuration") {
			t.Errorf("%q: got exit code %d: %s", flag, code, errs.String())
		}
		if c, err := config.Load(gateway); err != nil || c.Peers.Len() != 0 {
			t.Errorf("%q: got %v, %v, want no peer whose key nobody has", flag, c, err)
		}
	}
}
