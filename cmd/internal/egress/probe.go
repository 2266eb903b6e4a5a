package egress

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/router/transport"
)

// newProbe returns a function that sends something that gets an answer through a working transport: the configured probe, or
// else a question to the transport's DNS server. It returns nil if there is neither.
func newProbe(c *config.Probe, d transport.Dialer, resolvers []netip.AddrPort) func(context.Context) error {
	switch {
	case c != nil && c.Ping.IsValid():
		return func(ctx context.Context) error {
			return send(ctx, d, "ping", netip.AddrPortFrom(c.Ping, 0), binary.BigEndian.AppendUint32(nil, rand.Uint32()))
		}
	case c != nil && c.DNS != "":
		return func(ctx context.Context) error { return ask(ctx, d, resolvers, c.DNS) }
	case len(resolvers) > 0:
		return func(ctx context.Context) error { return ask(ctx, d, resolvers, ".") }
	}
	return nil
}

// ask sends a DNS question. Any answer shows that the transport works.
func ask(ctx context.Context, d transport.Dialer, servers []netip.AddrPort, name string) error {
	if len(servers) == 0 {
		return nil
	}
	q := binary.BigEndian.AppendUint16(nil, uint16(rand.Uint32()))
	q = append(q, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	for label := range strings.SplitSeq(strings.Trim(name, "."), ".") {
		if label != "" {
			q = append(append(q, byte(len(label))), label...)
		}
	}
	q = append(q, 0, 0, 2, 0, 1) // NS IN
	return send(ctx, d, "udp", servers[0], q)
}

// probeLife is how long the flow of a probe stays open for the answer.
const probeLife = 5 * time.Second

func send(ctx context.Context, d transport.Dialer, network string, to netip.AddrPort, b []byte) error {
	c, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return err
	}
	time.AfterFunc(probeLife, func() { c.Close() })
	_, err = c.Write(b)
	return err
}
