package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// laptop [penstock under lockdown, whose clock is behind the last handshake] -- access -- internet: time server, [later: gateway]
func TestAClockThatIsBehindIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "rules:\n", "always_on: {lockdown: true}\nrules:\n  - {name: ntp, match: {protocol: udp, port: 123}, do: direct}\n")
	w.write(t, "host.json.handshake", "2126-11-29T04:05:06Z\n")
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	t.Cleanup(func() { w.laptop.cli(t, "lockdown", "off", "-c", w.laptop.config) })
	today := time.Now().UTC().Format(time.DateOnly)
	const past = ", but the last handshake was at 2126-11-29 04:05:06 UTC"
	eventually(t, "the log at the start has the clock", func() error {
		if n := strings.Count(w.laptop.said.String(), past); n == 0 {
			return errors.New("it has not")
		}
		return nil
	})
	eventually(t, "the first line of status has the clock", func() error {
		r := w.laptop.cli(t, "status")
		first, _, _ := strings.Cut(r.stdout, "\n")
		if r.code != 4 || !strings.Contains(first, "the clock reads "+today) || !strings.Contains(first, past) || !strings.Contains(first, "Set the clock") {
			return fmt.Errorf("status: %s", r)
		}
		return nil
	})

	t.Run("a rule lets time in under lockdown, and nothing else", func(t *testing.T) {
		for _, row := range []struct {
			port     int
			answered bool
		}{{123, true}, {124, false}} {
			var server *net.UDPConn
			err := w.Internet.Do(func() (err error) {
				server, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(newsIPv4), Port: row.port})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			go func() {
				buf := make([]byte, 100)
				for {
					n, from, err := server.ReadFromUDP(buf)
					if err != nil {
						return
					}
					_, _ = server.WriteToUDP(buf[:n], from)
				}
			}()
			err = w.Laptop.Do(func() error {
				c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.ParseIP(newsIPv4), Port: row.port})
				if err != nil {
					return err
				}
				defer c.Close()
				if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
					return err
				}
				if _, err := c.Write([]byte("what time is it")); err != nil {
					return err
				}
				_, err = c.Read(make([]byte, 100))
				return err
			})
			if (err == nil) != row.answered {
				t.Errorf("port %d: got %v, want answered %v", row.port, err, row.answered)
			}
		}
	})

	// A server that knows no such handshake takes the next one, and that is then the last.
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	w.connected(t)
	w.laptop.stop(t, syscall.SIGTERM)
	b, err := os.ReadFile(w.path("host.json.handshake"))
	if err != nil || !strings.HasPrefix(string(b), today[:len("2006-01")]) {
		t.Errorf("after a handshake: got %q, %v; want that it is kept", b, err)
	}
}
