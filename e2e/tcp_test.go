package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"penstock/e2e/netlab"
)

// laptop: nc, Go clients [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet: echo, Go servers
func TestTCPIsCarriedAsItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	t.Run("nc: the client ends its half, and hears the rest", func(t *testing.T) {
		nc := program(t, "nc")
		want := strings.Repeat("to and fro\n", 20000)
		cmd := w.Laptop.Command(t.Context(), nc, "-N", "-w", "10", netlab.IntranetSite, "7")
		cmd.Stdin = strings.NewReader(want)
		if r := finish(t, cmd); r.code != 0 || r.stdout != want {
			t.Errorf("got exit code %d, %d bytes, %s, want %d bytes back", r.code, len(r.stdout), r.stderr, len(want))
		}
	})
	t.Run("nc: a closed port is refused", func(t *testing.T) {
		nc := program(t, "nc")
		if r := run(t, w.Laptop, nc, "-v", "-z", "-w", "10", netlab.IntranetIPv4, "4"); r.code != 1 || !strings.Contains(r.stderr, "refused") {
			t.Errorf("got %s, want refused", r)
		}
	})
	t.Run("the server ends its half, and hears the rest", func(t *testing.T) {
		heard := make(chan []byte, 1)
		serve(t, w.Intranet, ":2001", func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "that is all from me")
			_ = c.CloseWrite()
			b, _ := io.ReadAll(c) // what came counts
			heard <- b
		})
		conn := dial(t, w.Laptop, "tcp", netlab.IntranetIPv4+":2001")
		if b, err := io.ReadAll(conn); err != nil || string(b) != "that is all from me" {
			t.Fatalf("got %q, %v, want the server's words and its end", b, err)
		}
		want := bytes.Repeat([]byte("and from me"), 100000)
		if _, err := conn.Write(want); err != nil {
			t.Fatalf("write after the server's end: %v", err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; !bytes.Equal(got, want) {
			t.Errorf("the server heard %d bytes, want %d", len(got), len(want))
		}
	})
	t.Run("a reset by the server reaches the client", func(t *testing.T) {
		serve(t, w.Intranet, ":2002", func(c *net.TCPConn) {
			_, _ = c.Read(make([]byte, 1))
			_ = c.SetLinger(0)
		})
		conn := dial(t, w.Laptop, "tcp", netlab.IntranetIPv4+":2002")
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want %v", err, syscall.ECONNRESET)
		}
	})
	t.Run("a reset by the client reaches the server", func(t *testing.T) {
		ended := make(chan error, 1)
		serve(t, w.Intranet, ":2003", func(c *net.TCPConn) {
			_, err := io.ReadAll(c)
			ended <- err
		})
		for range 50 { // at once, before or after the connection was accepted on its way
			conn := dial(t, w.Laptop, "tcp", netlab.IntranetIPv4+":2003")
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("got %v, want %v", err, syscall.ECONNRESET)
			}
		}
	})
	for _, port := range []int{25, 22, 8443} { // the last one is read for a name first
		t.Run(fmt.Sprintf("a server on port %d may speak first", port), func(t *testing.T) {
			const banner = "220 mail.corp.example ready\r\n"
			serve(t, w.Intranet, fmt.Sprintf(":%d", port), func(c *net.TCPConn) {
				_, _ = io.WriteString(c, banner)
				_, _ = io.Copy(c, c)
			})
			conn := dial(t, w.Laptop, "tcp", fmt.Sprintf("%s:%d", netlab.IntranetIPv4, port))
			got := make([]byte, len(banner))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != banner {
				t.Fatalf("got %q, %v, want %q", got, err, banner)
			}
			const hello = "EHLO laptop.example\r\n" // a whole line: half of one might still become a request
			if _, err := io.WriteString(conn, hello); err != nil {
				t.Fatal(err)
			}
			got = got[:len(hello)]
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != hello {
				t.Errorf("got %q, %v, want %q back", got, err, hello)
			}
		})
	}
	w.nothingInClear(t)
}

// laptop: Go clients [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet: a server that hashes
func TestBytesArriveUnchanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	const port = ":2000"
	// The server sends as many bytes as the first eight say, or hashes what it gets.
	serve(t, w.Intranet, port, func(c *net.TCPConn) {
		var kind [1]byte
		var size int64
		if _, err := io.ReadFull(c, kind[:]); err != nil {
			return
		}
		if _, err := fmt.Fscanln(c, &size); err != nil {
			return
		}
		if kind[0] == 'd' {
			_, _ = io.Copy(c, newPattern(size))
			return
		}
		h := sha256.New()
		_, _ = io.Copy(h, c)
		_, _ = c.Write(h.Sum(nil))
	})
	for _, row := range []struct {
		sentence string
		kind     byte
		address  string
		size     int64
		streams  int
	}{
		{"100 MB down", 'd', netlab.IntranetIPv4, 100e6, 1},
		{"100 MB up", 'u', netlab.IntranetIPv4, 100e6, 1},
		{"20 MB down over IPv6", 'd', "[" + netlab.IntranetIPv6 + "]", 20e6, 1},
		{"20 MB up over IPv6", 'u', "[" + netlab.IntranetIPv6 + "]", 20e6, 1},
		{"10 MB down in each of eight streams", 'd', netlab.IntranetIPv4, 10e6, 8},
		{"10 MB up in each of eight streams", 'u', netlab.IntranetIPv4, 10e6, 8},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			h := sha256.New()
			if _, err := io.Copy(h, newPattern(row.size)); err != nil {
				t.Fatal(err)
			}
			want := h.Sum(nil)
			var wg sync.WaitGroup
			for range row.streams {
				conn := dial(t, w.Laptop, "tcp", row.address+port)
				wg.Go(func() {
					got, err := transfer(conn, row.kind, row.size)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("got digest %x, %v, want %x", got, err, want)
					}
				})
			}
			wg.Wait()
		})
	}
	w.nothingInClear(t)
}

// transfer moves size bytes and returns their digest as the receiver sees it.
func transfer(conn net.Conn, kind byte, size int64) ([]byte, error) {
	if _, err := fmt.Fprintf(conn, "%c%d\n", kind, size); err != nil {
		return nil, err
	}
	if kind == 'd' {
		h := sha256.New()
		_, err := io.Copy(h, conn)
		return h.Sum(nil), err
	}
	if _, err := io.Copy(conn, newPattern(size)); err != nil {
		return nil, err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return nil, err
	}
	return io.ReadAll(conn)
}

// newPattern is size bytes in which no two neighbouring blocks are alike.
func newPattern(size int64) io.Reader { return io.LimitReader(&pattern{}, size) }

type pattern struct{ next int }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p.next % 251)
		p.next++
	}
	return len(b), nil
}

// laptop: iperf3 [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet: iperf3 -s
func TestIperf3(t *testing.T) {
	t.Parallel()
	iperf := program(t, "iperf3")
	w := newWorld(t).up(t)
	server := w.Intranet.Command(t.Context(), iperf, "-s")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	for _, row := range []struct{ sentence, args string }{
		{"up", "-n 50M"},
		{"down", "-n 50M -R"},
		{"up with eight streams", "-n 50M -P 8"},
		{"down with eight streams", "-n 50M -P 8 -R"},
		{"datagrams up", "-u -b 50M -n 5M -l 1200"},
		{"datagrams down", "-u -b 50M -n 5M -l 1200 -R"},
		{"up over IPv6", "-6 -n 20M"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			var r result
			eventually(t, "iperf3 ends well", func() error { // the server may not listen yet, or still clear away the last test
				r = run(t, w.Laptop, iperf, append([]string{"-c", netlab.IntranetSite}, strings.Fields(row.args)...)...)
				if r.code != 0 {
					return errors.New(r.String())
				}
				return nil
			})
		})
	}
	w.nothingInClear(t)
}
