package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// laptop [pen0 -> penstock] === WireGuard ===> [penstock; and pen1 -> another penstock] gateway --- intranet
//
// The other penstock's server never answers, so what it captures goes nowhere.
func TestAGatewayKeepsItsPeersBesideALaptop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.up(t)
	site := attempt{"", "curl -4 https://intranet.corp.example/", "this is intranet.corp.example", nil}
	site.on(t, w.Laptop)
	_, stranger := keyPair(t)
	own, _ := keyPair(t)
	w.write(t, "other.conf", "[Interface]\nPrivateKey = "+own+"\nAddress = 10.98.0.2/32\n[Peer]\nPublicKey = "+stranger+
		"\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 198.51.100.99:51820\n")
	w.write(t, "other.yaml", w.fill.Replace(`listen:
  tun: {name: pen1, address: [10.76.0.1/24, "fd76::1/64"], state_file: DIR/other.json}
always_on: {lockdown: true}
transports:
  other: {wireguard: {config: other.conf}}
rules:
  - {name: rest, do: {via: other}}
`))
	start(t, w.Gateway, w.path("other.yaml"))
	eventually(t, "the other penstock captures", func() error {
		if r := run(t, w.Gateway, "ip", "route", "get", "192.0.2.1"); !strings.Contains(r.stdout, "dev pen1") {
			return fmt.Errorf("got %s", r)
		}
		return nil
	})
	for range 3 {
		site.on(t, w.Laptop)
	}
	w.laptop.cli(t, "reconnect") // a new handshake
	w.connected(t)
	site.on(t, w.Laptop)
}
