package portal

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cafe answers every name with itself, and every page by path, on the uplink "wifi" alone.
func cafe(t *testing.T, probe string) *Detector {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/empty", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(responseHeader, "response "+r.Header.Get(challengeHeader))
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/cached", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(responseHeader, "response of yesterday")
		w.WriteHeader(http.StatusNoContent)
	})
	mux.Handle("/moved", http.RedirectHandler("https://login.cafe.example/start?id=7#top", http.StatusFound))
	mux.Handle("/here", http.RedirectHandler("/login", http.StatusSeeOther))
	mux.Handle("/odd", http.RedirectHandler("javascript:alert(1)", http.StatusFound))
	mux.Handle("/long", http.RedirectHandler("http://login.cafe.example/"+strings.Repeat("a", longestURL), http.StatusFound))
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>welcome")) })
	mux.HandleFunc("/511", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNetworkAuthenticationRequired)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return New(Config{
		Probes: []string{"http://probe.example" + probe},
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
		},
		Dial: func(ctx context.Context, uplink, network, _ string) (net.Conn, error) {
			if uplink != "wifi" {
				return nil, errors.New("no route")
			}
			var d net.Dialer
			return d.DialContext(ctx, network, s.Listener.Addr().String())
		},
	})
}

func TestLook(t *testing.T) {
	const asked = "http://probe.example"
	tests := []struct {
		name, probe string
		uplinks     []string
		want        string
		clear       bool
	}{
		{"an empty page is no portal", "/empty", []string{"wifi"}, "", true},
		{"nor one with the challenge echoed", "/echo", []string{"wifi"}, "", true},
		{"an empty page out of a cache is one", "/cached", []string{"wifi"}, asked + "/cached", false},
		{"a redirect says where it is", "/moved", []string{"wifi"}, "https://login.cafe.example/start?id=7", false},
		{"a redirect within the page's host too", "/here", []string{"wifi"}, asked + "/login", false},
		{"a redirect to no page does not", "/odd", []string{"wifi"}, asked + "/odd", false},
		{"nor one of two thousand letters", "/long", []string{"wifi"}, asked + "/long", false},
		{"a page in place of none is a portal", "/page", []string{"wifi"}, asked + "/page", false},
		{"status 511 is what it is for", "/511", []string{"wifi"}, asked + "/511", false},
		{"an uplink without an answer says nothing", "/page", []string{"cable"}, "", false},
		{"of two uplinks the captive one counts", "/page", []string{"cable", "wifi"}, asked + "/page", false},
		{"without an uplink there is nothing to ask", "/page", nil, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, clear := cafe(t, tt.probe).Look(t.Context(), tt.uplinks)
			if got.URL != tt.want || ok != (tt.want != "") || clear != tt.clear {
				t.Errorf("got %+v %t, clear %t; want %q, clear %t", got, ok, clear, tt.want, tt.clear)
			}
		})
	}
}

func TestHost(t *testing.T) {
	tests := []struct{ url, want string }{
		{"https://login.cafe.example:8443/start", "login.cafe.example"},
		{"http://192.168.1.1/", "192.168.1.1"},
		{"http://[fe80::1]:80/", "fe80::1"},
		{":", ""},
	}
	for _, tt := range tests {
		if got := (Portal{URL: tt.url}).Host(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.url, got, tt.want)
		}
	}
}
