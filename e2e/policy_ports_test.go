package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// Ports on which nobody expects a name.
var (
	securePorts   = []int{26, 2053, 4443, 7443, 8444}
	plainPorts    = []int{8000, 8880}
	datagramPorts = []int{4433, 8443}
)

// serveOtherPorts opens web servers on other ports than those of the web.
func (w *world) serveOtherPorts(t *testing.T) {
	t.Helper()
	serve := func(l net.Listener) {
		mux := http.NewServeMux()
		mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintf(rw, "this is %s\n", r.Host) })
		mux.HandleFunc("/drip/", func(rw http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				fmt.Fprint(rw, ".")
				http.NewResponseController(rw).Flush()
				time.Sleep(100 * time.Millisecond)
			}
		})
		srv := &http.Server{Handler: mux}
		go srv.Serve(l) // ends with Close
		t.Cleanup(func() { srv.Close() })
	}
	config := &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return w.CA.Certificate(hello.ServerName)
	}}
	for _, port := range append(append([]int(nil), securePorts...), plainPorts...) {
		l, err := w.Internet.Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			t.Fatal(err)
		}
		if port != 8000 && port != 8880 {
			l = tls.NewListener(l, config)
		}
		serve(l)
	}
}

func waysOnOtherPorts() []way {
	var ways []way
	for _, port := range securePorts {
		at := func(addr string) string { return fmt.Sprintf("%s:%d", addr, port) }
		ways = append(ways,
			way{fmt.Sprintf("TLS on port %d", port), tlsTo(at(gamblingIPv4), netlab.GamblingSite, nil), false},
			way{fmt.Sprintf("TLS on port %d of another site's address", port), tlsTo(at(newsIPv4), netlab.GamblingSite, nil), false},
		)
	}
	const odd = ":4443"
	ways = append(ways,
		way{"TLS over IPv6 on port 4443", tlsTo("["+gamblingIPv6+"]"+odd, netlab.GamblingSite, nil), false},
		way{"a TLS hello on port 4443 in segments of one byte", tlsTo(newsIPv4+odd, netlab.GamblingSite, inSegments(1, time.Millisecond)), false},
		way{"a TLS hello on port 4443 that stalls behind its first bytes", tlsTo(newsIPv4+odd, netlab.GamblingSite, stalling(3, 700*time.Millisecond)), false},
		way{"a TLS hello on port 4443 that stalls in its middle", tlsTo(newsIPv4+odd, netlab.GamblingSite, stalling(60, 700*time.Millisecond)), false},
		way{"a TLS hello on port 4443 that comes late", tlsTo(newsIPv4+odd, netlab.GamblingSite, stalling(0, 700*time.Millisecond)), false},
		way{"a TLS hello on port 4443 in small records", tlsTo(newsIPv4+odd, netlab.GamblingSite, inRecords(20, inSegments(30, 0))), false},
	)
	for _, port := range plainPorts {
		at := func(addr string) string { return fmt.Sprintf("%s:%d", addr, port) }
		ways = append(ways,
			way{fmt.Sprintf("HTTP on port %d", port), sending(at(gamblingIPv4), 0, request("casino.example")), false},
			way{fmt.Sprintf("HTTP on port %d of another site's address", port), sending(at(publicIPv4), 0, request("casino.example")), false},
			way{fmt.Sprintf("HTTP on port %d in segments of one byte", port), sending(at(publicIPv4), time.Millisecond, inBytes(request("casino.example"))...), false},
			way{fmt.Sprintf("HTTP on port %d that stalls in its first word", port), sending(at(publicIPv4), 600*time.Millisecond, "G", "ET / HTTP/1.1\r\nHost: casino.example\r\n\r\n"), false},
			way{fmt.Sprintf("a second request on port %d", port), sending(at(publicIPv4), 300*time.Millisecond, request("public.example"), request("casino.example")), false},
		)
	}
	for _, port := range datagramPorts {
		at := func(addr string) string { return fmt.Sprintf("%s:%d", addr, port) }
		initial := func(t *testing.T) [][]byte { return [][]byte{quicInitial(t, netlab.GamblingSite)} }
		ways = append(ways,
			way{fmt.Sprintf("QUIC on port %d", port), quicTo(at(gamblingIPv4), initial), false},
			way{fmt.Sprintf("QUIC on port %d of another site's address", port), quicTo(at(newsIPv4), initial), false},
		)
	}
	return ways
}
