package openvpn

import (
	"context"
	"errors"
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/openvpntest"
)

// socket is the outer TCP socket of a client.
type socket struct{ conn syscall.RawConn }

func (s *socket) control(_, _ string, c syscall.RawConn) error {
	s.conn = c
	return nil
}

// stuff fills the socket until the system takes no byte more, as bulk data does whose reader has stopped.
func (s *socket) stuff(t *testing.T) {
	t.Helper()
	junk := make([]byte, 64<<10)
	deadline := time.Now().Add(20 * time.Second)
	for full := time.Now(); time.Since(full) < 300*time.Millisecond; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the socket is not full after 20 s")
		}
		if err := s.conn.Write(func(fd uintptr) bool {
			for n := len(junk); n > 0; {
				if _, err := syscall.Write(int(fd), junk[:n]); err != nil {
					n /= 2
				} else {
					full = time.Now()
				}
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// stalledClient is connected to a server that has stopped reading.
func stalledClient(t *testing.T, restart int) (*testClient, *socket) {
	t.Helper()
	var outer socket
	server, profile := serve(t, "", func(c *openvpntest.Config) {
		c.Network = "tcp"
		c.Push = []string{"PUSH_REPLY,ifconfig 10.9.0.2 255.255.255.0,topology subnet,peer-id 5,cipher AES-256-GCM,protocol-flags tls-ekm,ping 1,ping-restart " + strconv.Itoa(restart)}
	})
	client := newTestClient(t, profile, func(cfg *Config) { cfg.Dialer = &net.Dialer{Control: outer.control} })
	client.connect(t)
	ping(t, client.device, client.addr(t), innerServer())
	server.StopReading()
	return client, &outer
}

func expectTimeout(t *testing.T, client *testClient) {
	t.Helper()
	select {
	case err := <-client.lost:
		if _, ok := errors.AsType[transport.ErrKeepaliveTimeout](err); !ok {
			t.Errorf("Lost: got %v, want ErrKeepaliveTimeout", err)
		}
	case <-time.After(30 * time.Second): // half of what a write waits for its peer
		t.Error("ping-restart 4 has not fired after 30 s")
	}
}

func expectClose(t *testing.T, client *testClient) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- client.Close() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Close: %v", err)
		}
	case <-time.After(20 * time.Second): // a third of what ping-restart or a write waits for the server
		t.Fatal("Close has not returned after 20 s")
	}
}

// flood gives the device packets until its reader takes no more.
func (c *testClient) flood(t *testing.T) {
	t.Helper()
	packet := echoPacket(c.addr(t), innerServer(), 1, 1300)
	for deadline := time.After(20 * time.Second); ; {
		select {
		case c.device.out <- packet:
		case <-time.After(500 * time.Millisecond):
			return
		case <-deadline:
			t.Fatal("the device is still read after 20 s")
		}
	}
}

func TestAServerThatStopsReadingIsNoticed(t *testing.T) {
	t.Run("while nothing is sent", func(t *testing.T) {
		t.Parallel()
		client, outer := stalledClient(t, 4)
		outer.stuff(t)
		expectTimeout(t, client)
		expectClose(t, client)
	})
	t.Run("in the middle of an upload", func(t *testing.T) {
		t.Parallel()
		client, _ := stalledClient(t, 4)
		client.flood(t)
		expectTimeout(t, client)
		expectClose(t, client)
	})
}

func TestCloseDoesNotWaitForAServerThatStopsReading(t *testing.T) {
	t.Run("while nothing is sent", func(t *testing.T) {
		t.Parallel()
		client, outer := stalledClient(t, 60)
		outer.stuff(t)
		time.Sleep(1500 * time.Millisecond) // a ping was due: the state is what is tested, no event tells it
		expectClose(t, client)
	})
	t.Run("in the middle of an upload", func(t *testing.T) {
		t.Parallel()
		client, _ := stalledClient(t, 60)
		client.flood(t)
		expectClose(t, client)
	})
}

func TestConnectReplacesASessionWhoseServerStopsReading(t *testing.T) {
	t.Parallel()
	client, _ := stalledClient(t, 60)
	client.flood(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	start := time.Now()
	if err := client.Connect(ctx); err == nil {
		t.Error("Connect: got no error from a server that does not read")
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("Connect: took %v with 2 s to go", took)
	}
}
