package netlab_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
	"penstock/e2e/netlab/netlabtest"
)

func TestCaptureTellsTheTunnelFromTheRest(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	gateway := netip.AddrPortFrom(netip.MustParseAddr(netlab.GatewayIPv4), 51820)
	server, err := lab.Gateway.ListenPacket(t.Context(), "udp", gateway.String())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for _, ifname := range []string{"lan", "wan"} {
		t.Run(ifname, func(t *testing.T) {
			capture, err := lab.Access.Capture(ifname, netlab.Endpoint{Network: "udp", Addr: gateway})
			if err != nil {
				t.Fatal(err)
			}
			conn, err := lab.Laptop.DialContext(t.Context(), "udp", gateway.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for _, size := range []int{100, 4000} { // the second in three fragments
				if _, err := conn.Write(make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				if _, _, err := server.ReadFrom(make([]byte, 5000)); err != nil {
					t.Fatal(err)
				}
			}
			peer, link := lab.Laptop, "lan0"
			if ifname == "wan" {
				peer, link = lab.Internet, "access"
			}
			if err := capture.Control(t.Context(), peer, link); err != nil {
				t.Error(err)
			}
			if err := capture.Report().Err(); err != nil {
				t.Errorf("only tunnel packets so far: got %v", err)
			}
			if _, err := get(t.Context(), lab.Client(lab.Laptop), "http://public.example/"); err != nil {
				t.Fatal(err)
			}
			got := capture.Stop()
			if got.Tunnel != 4 || got.TunnelBytes < 4100 {
				t.Errorf("tunnel: got %d frames and %d bytes, want 4 and their bytes", got.Tunnel, got.TunnelBytes)
			}
			if got.Controls == 0 || got.Dropped != 0 {
				t.Errorf("got %d controls and %d dropped, want some and none", got.Controls, got.Dropped)
			}
			var seen []string
			for _, s := range got.Samples {
				seen = append(seen, s.String())
			}
			if !strings.Contains(strings.Join(seen, "\n"), "> 203.0.113.10:80") || got.Err() == nil {
				t.Errorf("a fetch in clear: got %d packets %q, error %v", got.Clear, seen, got.Err())
			}
		})
	}
}

func TestASilentCaptureProvesNothing(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	capture, err := lab.Access2.Capture("lan")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	// The laptop's end is down.
	if err := capture.Control(ctx, lab.Laptop, "lan1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("control over a dead link: got %v, want %v", err, context.DeadlineExceeded)
	}
	if err := capture.Stop().Err(); err == nil {
		t.Error("a capture that saw no control: got no error")
	}
}

func TestBlackholeIsSilentAndOneWay(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	client := lab.Client(lab.Laptop)
	for _, url := range []string{"http://203.0.113.10/", "http://[2001:db8:113::10]/"} {
		for _, ifname := range []string{"lan", "wan"} { // there and back
			for _, on := range []bool{true, true, false, false} {
				if err := lab.Access.Blackhole(ifname, on); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				_, err := get(ctx, client, url)
				cancel()
				if got := err != nil && err.Error() == "timeout"; got != on {
					t.Errorf("%s: black hole behind %s is %t: got %v", url, ifname, on, err)
				}
			}
		}
	}
	if err := lab.Access.Blackhole("lan", true); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.Laptop.Lookup(t.Context(), netlab.PublicSite); err != nil {
		t.Errorf("the router itself: got %v, want an answer", err)
	}
}

func TestImpairments(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip(err)
	}
	const sent = 100 // a socket buffer holds 277 of them
	for _, row := range []struct {
		sentence  string
		imp       netlab.Impairment
		network   string
		low, high int // how many come back
		reordered bool
	}{
		{"none changes nothing", netlab.Impairment{}, "udp4", sent, sent, false},
		{"all is lost", netlab.Impairment{Loss: 1}, "udp4", 0, 0, false},
		{"a fifth is lost", netlab.Impairment{Loss: 0.2}, "udp4", 60, 97, false},
		{"all comes twice over IPv6", netlab.Impairment{Duplicate: 1}, "udp6", 2 * sent, 2 * sent, false},
		{"delay keeps the order", netlab.Impairment{Delay: 20 * time.Millisecond}, "udp4", sent, sent, false},
		{"jitter changes the order", netlab.Impairment{Jitter: 20 * time.Millisecond}, "udp4", sent, sent, true},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			impaired, err := lab.Access.Impair("lan", row.imp)
			if err != nil {
				t.Fatal(err)
			}
			defer impaired.Close()
			conn, err := lab.Laptop.DialContext(t.Context(), row.network, "echo.example:7")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for i := range sent {
				if _, err := conn.Write([]byte{byte(i)}); err != nil {
					t.Fatal(err)
				}
			}
			got, reordered := receive(t, conn, row.high)
			if got < row.low || got > row.high || reordered != row.reordered {
				t.Errorf("got %d datagrams, reordered %t, want %d to %d, reordered %t", got, reordered, row.low, row.high, row.reordered)
			}
			if err := impaired.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := get(t.Context(), lab.Client(lab.Laptop), "https://public.example/"); err != nil {
		t.Errorf("after the last impairment: got %v", err)
	}
}

// receive counts the datagrams that come back. It stops when it has most of them or, once a final one has come back too, when no
// more arrive. It reports whether any came back out of order.
func receive(t *testing.T, conn net.Conn, most int) (got int, reordered bool) {
	t.Helper()
	const last = 0xff
	through, newest := most == 0, 0
	buf := make([]byte, 16)
	for most == 0 || got < most {
		if err := conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err := conn.Read(buf)
		switch {
		case err != nil && through:
			return got, reordered
		case err != nil: // resend the final one until it comes back
			if _, err := conn.Write([]byte{last}); err != nil {
				t.Fatal(err)
			}
		case buf[0] == last:
			through = true
		default:
			got++
			reordered = reordered || int(buf[0]) < newest
			newest = int(buf[0])
		}
	}
	return got, reordered
}

func TestCaptureSurvivesALinkThatGoesDown(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{})
	capture, err := lab.Access.Capture("lan")
	if err != nil {
		t.Fatal(err)
	}
	for _, up := range []bool{false, true} {
		if err := lab.Access.SetLink("lan", up); err != nil {
			t.Fatal(err)
		}
	}
	if err := capture.Control(t.Context(), lab.Laptop, "lan0"); err != nil {
		t.Error(err)
	}
	if first, again := capture.Stop(), capture.Stop(); first.Controls == 0 || first.Controls != again.Controls {
		t.Errorf("got %d controls, then %d, want the same, not 0", first.Controls, again.Controls)
	}
}
