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
		{"a redirect to something else than a page does not", "/odd", []string{"wifi"}, asked + "/odd", false},
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
			if got.Uplink != "wifi" && ok || (got.Host == "") == ok {
				t.Errorf("got %+v %t, want a host and the uplink of what was found", got, ok)
			}
			if got.URL != tt.want || ok != (tt.want != "") || clear != tt.clear {
				t.Errorf("got %+v %t, clear %t; want %q, clear %t", got, ok, clear, tt.want, tt.clear)
			}
		})
	}
}

func TestEachLookAsksForOnePage(t *testing.T) {
	var asked []string
	d := New(Config{
		Probes: []string{"http://a.example/", "http://b.example/"},
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			asked = append(asked, host)
			return nil, errors.New("no answer")
		},
	})
	for range 3 {
		if _, ok, clear := d.Look(t.Context(), []string{"wifi"}); ok || clear {
			t.Errorf("got a portal %v, clear %v; want neither", ok, clear)
		}
	}
	if want := "a.example b.example a.example"; strings.Join(asked, " ") != want {
		t.Errorf("got %q, want %q", asked, want)
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		name, url string
		want      Portal // zero: refused
	}{
		{"a name with a port", "https://Login.Cafe.Example.:8443/start?id=7", Portal{"https://Login.Cafe.Example.:8443/start?id=7", "https", "login.cafe.example", 8443, "wifi"}},
		{"the port is the scheme's own", "http://login.cafe.example", Portal{"http://login.cafe.example", "http", "login.cafe.example", 80, "wifi"}},
		{"also for https", "https://login.cafe.example/", Portal{"https://login.cafe.example/", "https", "login.cafe.example", 443, "wifi"}},
		{"a private address", "http://192.168.1.1/", Portal{"http://192.168.1.1/", "http", "192.168.1.1", 80, "wifi"}},
		{"an IPv6 address", "http://[2001:db8::1]:8080/", Portal{"http://[2001:db8::1]:8080/", "http", "2001:db8::1", 8080, "wifi"}},
		{"user and fragment are left out", "http://me:secret@login.cafe.example/a#b", Portal{"http://login.cafe.example/a", "http", "login.cafe.example", 80, "wifi"}},
		{"an IPv4 address in IPv6 form is itself", "http://[::ffff:192.168.1.1]/", Portal{"http://[::ffff:192.168.1.1]/", "http", "192.168.1.1", 80, "wifi"}},
		{"no URL", ":", Portal{}},
		{"no host", "http:///start", Portal{}},
		{"another scheme", "javascript:alert(1)", Portal{}},
		{"a file", "file:///etc/passwd", Portal{}},
		{"port 0", "http://login.cafe.example:0/", Portal{}},
		{"a port that is too large", "http://login.cafe.example:65536/", Portal{}},
		{"this machine by name", "http://localhost:631/", Portal{}},
		{"this machine by a name below localhost", "http://a.LOCALHOST./", Portal{}},
		{"this machine by address", "http://127.0.0.1/", Portal{}},
		{"this machine by an address that leads to it", "http://[::ffff:127.0.0.1]/", Portal{}},
		{"this machine in a form that browsers read", "http://0x7f.1/", Portal{}},
		{"and in another", "http://2130706433/", Portal{}},
		{"no address at all", "http://0.0.0.0/", Portal{}},
		{"the metadata service of a cloud", "http://169.254.169.254/latest/", Portal{}},
		{"an address on an interface", "http://[fe80::1%25eth0]/", Portal{}},
		{"a name with an odd letter", "http://login_(cafe).example/", Portal{}},
		{"a name in another script", "http://caf\u00e9.example/", Portal{}},
		{"a name with an empty label", "http://login..example/", Portal{}},
		{"a URL of two thousand letters", "http://login.cafe.example/" + strings.Repeat("a", longestURL), Portal{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.url, "wifi")
			if got != tt.want || (err != nil) != (tt.want == Portal{}) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
			if err == nil && got.Addr().IsValid() != (strings.Contains(got.Host, ":") || strings.Trim(got.Host, "0123456789.") == "") {
				t.Errorf("Addr: got %v for the host %s", got.Addr(), got.Host)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"https://login.cafe.example:8443/a?b#c", "http://[::1]/", "http://0x7f.1", "http://me@x.example", "http://%6c.example/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := Parse(raw, "wifi")
		if err != nil {
			return
		}
		if p.Host == "" || p.Port == 0 || p.Scheme != "http" && p.Scheme != "https" || p.Host != strings.ToLower(p.Host) {
			t.Errorf("%q: got %+v, which leads nowhere", raw, p)
		}
		again, err := Parse(p.URL, "wifi")
		if err != nil || again.Host != p.Host || again.Port != p.Port || again.Scheme != p.Scheme {
			t.Errorf("%q: read again as %+v, %v; want %+v", raw, again, err, p)
		}
	})
}
