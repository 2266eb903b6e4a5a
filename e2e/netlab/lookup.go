package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Lookup asks the nameservers in the host's current resolv.conf for the addresses of a name, IPv4 first. If the name has no
// address, the error is a *net.DNSError with IsNotFound.
func (h *Host) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	b, err := h.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	conf, err := dns.ClientConfigFromReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("host %s: resolv.conf: %w", h.name, err)
	}
	failed := fmt.Errorf("host %s: no nameserver in resolv.conf", h.name)
	for _, server := range conf.Servers {
		addrs, err := h.ask(ctx, net.JoinHostPort(server, conf.Port), name)
		var answer *net.DNSError
		if err == nil || errors.As(err, &answer) {
			return addrs, err
		}
		failed = err
	}
	return nil, failed
}

// ask asks one resolver for both address types of a name.
func (h *Host) ask(ctx context.Context, server, name string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	rcode := dns.RcodeSuccess
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		conn, err := h.DialContext(ctx, "udp", server)
		if err != nil {
			return nil, err
		}
		reply, _, err := new(dns.Client).ExchangeWithConnContext(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(name), kind), &dns.Conn{Conn: conn})
		conn.Close()
		if err != nil {
			return nil, fmt.Errorf("host %s: ask %s for %s: %w", h.name, server, name, err)
		}
		rcode = reply.Rcode
		for _, rr := range reply.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				addrs = append(addrs, netip.AddrFrom4([4]byte(rr.A.To4())))
			case *dns.AAAA:
				addrs = append(addrs, netip.AddrFrom16([16]byte(rr.AAAA)))
			}
		}
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: strings.ToLower(dns.RcodeToString[rcode]), Name: name, Server: server, IsNotFound: rcode == dns.RcodeNameError || rcode == dns.RcodeSuccess}
	}
	return addrs, nil
}
