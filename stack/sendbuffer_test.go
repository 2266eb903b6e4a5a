package stack

import (
	"context"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

func TestAClientWithManyFlowsHasSmallerSendBuffers(t *testing.T) {
	sizes := make(chan int64)
	p := newPair(t, byPipe, Limits{}, func(ctx context.Context, r *Request) {
		c, err := r.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		ep := r.tcp.t.s.net.FindTransportEndpoint(ipv4.ProtocolNumber, tcp.ProtocolNumber, r.tcp.id, nicID).(tcpip.Endpoint)
		sizes <- ep.SocketOptions().GetSendBufferSize()
		<-ctx.Done()
	})
	const flows = 500
	sum, first, last := int64(0), int64(0), int64(0)
	for i := range flows {
		c, err := p.client.DialContext(t.Context(), "tcp", "203.0.113.9:5000")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		last = <-sizes
		if i == 0 {
			first = last
		}
		sum += last
	}
	if first != 1<<20 {
		t.Errorf("one flow has a send buffer of %d bytes, want 1 MiB", first)
	}
	if last > sendBuffers/flows {
		t.Errorf("one of %d flows has %d, want at most %d", flows, last, sendBuffers/flows)
	}
	if most := int64(4 * sendBuffers); sum > most {
		t.Errorf("all of them have %d bytes, want at most %d", sum, most)
	}
}
