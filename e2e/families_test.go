package e2e

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"penstock/e2e/netlab"
)

// laptop:  wireguard-go === WireGuard over IPv4 \
// access:  wireguard-go === over IPv6            ===> [penstock] gateway --- intranet: source
// access2: wireguard-go === over IPv6           /
//
// All three download at once. Nothing leaves the gateway's port but to them.
func TestPeersOverBothFamiliesAtOnce(t *testing.T) {
	t.Parallel()
	tcpdump := program(t, "tcpdump")
	needsOthers(t) // tcpdump becomes another user
	w := newWorld(t)
	var peers strings.Builder
	over6 := map[*netlab.Host]string{w.Access: "3", w.Access2: "4"}
	for _, host := range over6 {
		key, public := keyPair(t)
		fmt.Fprintf(&peers, "  - {name: p%s, public_key: %s, allowed_ips: 10.99.0.%s/32, groups: [staff]}\n", host, public, host)
		w.write(t, host+".conf", strings.NewReplacer(
			w.fill.Replace("PrivateKey = LAPTOP_KEY"), "PrivateKey = "+key,
			"Address = 10.99.0.2/32, fd99::2/128", "Address = 10.99.0."+host+"/32",
			"Endpoint = "+netlab.GatewayIPv4, "Endpoint = ["+netlab.GatewayIPv6+"]",
		).Replace(w.read(t, "corp.conf")))
		if !strings.Contains(w.read(t, host+".conf"), "["+netlab.GatewayIPv6+"]:") {
			t.Fatal("the configuration has no endpoint to replace")
		}
	}
	w.edit(t, "gateway.yaml", "peers:\n", "peers:\n"+peers.String())
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	stock(t, w.Laptop, w.path("corp.conf"), "10.99.0.0/24", "10.20.0.0/24")
	for host, name := range over6 {
		stock(t, host, w.path(name+".conf"), "10.99.0.0/24", "10.20.0.0/24")
	}
	serveSource(t, w)

	stray := w.Gateway.Command(t.Context(), tcpdump, "-n", "-l", "-i", "wan",
		"udp src port 51820 and not (dst net 192.0.2.0/24 or dst net 192.168.50.0/24 or dst net 2001:db8:50::/48 or dst net 2001:db8:60::/48)")
	var said transcript
	stray.Stdout, stray.Stderr = &said, &said
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "tcpdump listens", func() error {
		if !strings.Contains(said.String(), "listening on wan") {
			return fmt.Errorf("tcpdump: %s", said.String())
		}
		return nil
	})
	const size = 20 << 20
	var wg sync.WaitGroup
	for _, host := range []*netlab.Host{w.Laptop, w.Access, w.Access2} {
		wg.Go(func() {
			if n, took, err := drain(t, host, size); err != nil {
				t.Errorf("after %d of %d bytes and %v: %v", n, size, took, err)
			}
		})
	}
	wg.Wait()
	stray.Process.Signal(syscall.SIGTERM)
	stray.Wait()
	for _, line := range strings.Split(said.String(), "\n") {
		if strings.Contains(line, ".51820 > ") {
			t.Fatalf("packets leave for somewhere else, for example %s", line)
		}
	}
}
