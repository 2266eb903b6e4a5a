package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// dial connects from a host, closes at the test's end, and lets no read or write hang.
func dial(t *testing.T, h *netlab.Host, network, address string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := h.DialContext(ctx, network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	within(t, conn)
	return conn
}

// within lets no read or write of a connection hang.
func within(t *testing.T, conn interface{ SetDeadline(time.Time) error }) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}

// serve answers connections to a host's TCP address with handle, one goroutine each, until the test ends.
func serve(t *testing.T, h *netlab.Host, address string, handle func(*net.TCPConn)) {
	t.Helper()
	l, err := h.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(2 * patience))
				handle(conn.(*net.TCPConn))
			}()
		}
	}()
}

// exchange sends a request and reads what comes within a moment after the last byte; nothing if the other side closed.
func exchange(t *testing.T, conn net.Conn, request string) string {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		return ""
	}
	var answer strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		answer.Write(buf[:n])
		if err != nil || strings.HasSuffix(answer.String(), ".example\n") {
			return answer.String()
		}
	}
}

// isRefused says that the other side, or a penstock in its name, refused.
func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED)
}
