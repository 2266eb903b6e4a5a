package ondemand

import (
	"context"
	"crypto/sha256"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loopback is a Prober of a network in which every name is this machine.
func loopback() Prober {
	return Prober{
		Dial: new(net.Dialer).DialContext,
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		},
	}
}

func TestAnswers(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/good", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.Handle("/moved", http.RedirectHandler("/good", http.StatusFound))
	mux.HandleFunc("/empty", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	s := httptest.NewServer(mux)
	defer s.Close()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.URL, "http://"))
	site := "http://probe.example:" + port
	tests := []struct {
		name, url string
		want      bool
	}{
		{"200 is an answer", site + "/good", true},
		{"a redirect to it is none", site + "/moved", false},
		{"204 is none", site + "/empty", false},
		{"a server without the page is none", site + "/other", false},
		{"a port that nobody listens on is none", "http://probe.example:1/good", false},
		{"a URL that is none is none", ":", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := loopback().Answers(t.Context(), tt.url); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

func TestProves(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	addr := netip.MustParseAddrPort(s.Listener.Addr().String())
	digest := sha256.Sum256(s.Certificate().Raw)
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	tests := []struct {
		name   string
		beacon Beacon
		want   bool
	}{
		{"the certificate that was named", Beacon{addr, digest}, true},
		{"another certificate", Beacon{addr, [32]byte{1}}, false},
		{"a server without TLS", Beacon{netip.MustParseAddrPort(plain.Listener.Addr().String()), digest}, false},
		{"nobody", Beacon{netip.MustParseAddrPort("127.0.0.1:1"), digest}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := loopback().Proves(t.Context(), tt.beacon); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}
