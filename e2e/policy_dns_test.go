package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"penstock/e2e/netlab"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// dnsAsk asks a server, or the host's own for "". It got through if something stands in the answer.
func dnsAsk(server, network, name, kind, something string) func(*testing.T, *tryer) (bool, error) {
	return func(t *testing.T, c *tryer) (bool, error) {
		server := server
		if server == "" {
			b, err := c.host.ReadFile("/etc/resolv.conf")
			if err != nil {
				return false, err
			}
			_, rest, _ := strings.Cut(string(b), "nameserver")
			server = net.JoinHostPort(strings.Fields(rest)[0], "53")
		}
		conn, err := c.dial(t, network, server)
		if err != nil {
			return false, err
		}
		q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[kind])
		a, _, err := (&dns.Client{Timeout: tries}).ExchangeWithConn(q, &dns.Conn{Conn: conn})
		if err != nil {
			return false, err
		}
		for _, rr := range append(a.Answer, a.Extra...) {
			if strings.Contains(rr.String(), something) {
				return true, nil
			}
		}
		return false, fmt.Errorf("%s, %v", dns.RcodeToString[a.Rcode], a.Answer)
	}
}

func waysInDNS() []way {
	const foreign, foreign6 = netlab.ResolverIPv4 + ":53", "[" + netlab.ResolverIPv6 + "]:53"
	own := func(sentence, name, kind, something string) way {
		return way{sentence, dnsAsk("", "udp", name, kind, something), false}
	}
	return []way{
		own("the name, by A", "casino.example", "A", gamblingIPv4),
		own("the name, by AAAA", "casino.example", "AAAA", gamblingIPv6),
		own("the name, by HTTPS with an address", "casino.example", "HTTPS", gamblingIPv4),
		own("the name, by TXT", "casino.example", "TXT", "spf1"),
		own("the name, by MX", "casino.example", "MX", "mail."),
		own("the name in mixed case", "CaSiNo.eXaMpLe", "A", gamblingIPv4),
		own("a name below it", "www.casino.example", "A", gamblingIPv4),
		own("an alias", "alias.example", "A", gamblingIPv4),
		own("an alias of an alias", "alias2.example", "A", gamblingIPv4),
		own("a service record with another target", "service.example", "HTTPS", gamblingIPv4),
		own("a service record that is an alias", "hinted.example", "HTTPS", "casino.example"),
		own("the keys for ECH", "encrypted.example", "HTTPS", "ech="),
		own("a resolver's name", "dns.google", "A", knownResolver4),
		own("Firefox's question whether it may go elsewhere", "use-application-dns.net", "A", publicIPv4),
		own("Apple's question whether it may go elsewhere", "mask.icloud.com", "A", publicIPv4),
		own("the question for a designated resolver", "_dns.resolver.arpa", "SVCB", "dns.google"),
		{"a foreign resolver", dnsAsk(foreign, "udp", "casino.example", "A", gamblingIPv4), false},
		{"a foreign resolver over TCP", dnsAsk(foreign, "tcp", "casino.example", "A", gamblingIPv4), false},
		{"a foreign resolver over IPv6", dnsAsk(foreign6, "udp", "casino.example", "A", gamblingIPv4), false},
		{"a foreign resolver, an alias", dnsAsk(foreign, "udp", "alias.example", "A", gamblingIPv4), false},
	}
}
