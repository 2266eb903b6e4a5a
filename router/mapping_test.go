package router

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"penstock/policy"
	"penstock/stack/localport"
)

// fromPort is a connection whose local port is known.
type fromPort struct {
	net.Conn
	port int
}

func (c fromPort) LocalAddr() net.Addr { return &net.UDPAddr{Port: c.port} }
func (c fromPort) Close() error        { return nil }

func TestFlowsFromOnePortShareAnother(t *testing.T) {
	var m mappings
	var asked []uint16 // what the dialers were asked to leave from
	dial := func(client uint64, src, egress string) net.Conn {
		t.Helper()
		f := policy.Flow{Client: client, Src: netip.MustParseAddrPort(src)}
		c, err := m.dial(t.Context(), &f, egress, func(ctx context.Context) (net.Conn, error) {
			port, ok := localport.Of(ctx)
			if !ok {
				t.Error("the dial may leave from a port of its own")
			}
			asked = append(asked, port)
			return fromPort{port: 4000 + len(asked)}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	want := func(ports ...uint16) {
		t.Helper()
		for i, port := range ports {
			if asked[i] != port {
				t.Errorf("dial %d was to leave from %d, want %d", i, asked[i], port)
			}
		}
	}
	one := dial(1, "10.0.0.2:9", "out")
	two := dial(1, "10.0.0.2:9", "out")
	dial(1, "10.0.0.2:8", "out").Close()
	dial(2, "10.0.0.2:9", "out").Close()
	dial(1, "10.0.0.2:9", "corp").Close()
	want(0, 4001, 0, 0, 0)
	one.Close()
	one.Close() // twice is once
	three := dial(1, "10.0.0.2:9", "out")
	want(0, 4001, 0, 0, 0, 4001)
	two.Close()
	three.Close()
	dial(1, "10.0.0.2:9", "out").Close()
	want(0, 4001, 0, 0, 0, 4001, 0)
	f := policy.Flow{Client: 1}
	if _, err := m.dial(t.Context(), &f, "out", func(context.Context) (net.Conn, error) { return nil, syscall.ENETUNREACH }); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("got %v, want the dialer's error", err)
	}
	if m.live.Len() != 0 {
		t.Errorf("%d mappings are left without flows", m.live.Len())
	}
}

// toldClient is the client's side of a datagram flow that notes which errors it gets.
type toldClient struct {
	net.Conn
	told chan error
}

func (c toldClient) Unreachable(err error) { c.told <- err }

func TestAnICMPErrorEndsNoDatagramFlow(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := server.LocalAddr().(*net.UDPAddr)
	upstream, err := net.DialUDP("udp4", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	server.Close() // nobody listens for now
	near, far := net.Pipe()
	client := toldClient{far, make(chan error, 10)}
	over := make(chan string, 1)
	go func() {
		w, e := newWorld(t, Config{Policy: decideAlways(policy.Verdict{}), Ways: ways{}}), new(entry)
		(&relay{r: w.Router, e: e, client: client, upstream: upstream}).carryDatagrams(t.Context(), nil, nil)
		over <- e.err
	}()
	near.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := near.Write([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-client.told:
		if err != syscall.ECONNREFUSED {
			t.Errorf("the client was told %v, want ECONNREFUSED", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the client was told nothing")
	}
	if server, err = net.ListenUDP("udp4", at); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := near.Write([]byte("found")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	n, from, err := server.ReadFromUDP(buf)
	if err != nil || string(buf[:n]) != "found" || from.Port != upstream.LocalAddr().(*net.UDPAddr).Port {
		t.Fatalf("got %q from %v, %v", buf[:n], from, err)
	}
	server.WriteToUDP([]byte("back"), from)
	if n, err := near.Read(buf); err != nil || string(buf[:n]) != "back" {
		t.Errorf("got %q, %v, want the answer", buf[:n], err)
	}
	near.Close()
	if why := <-over; why != "" {
		t.Errorf("the flow failed: %s", why)
	}
}
