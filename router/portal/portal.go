// Package portal finds captive portals: networks that answer in place of other servers until the user has signed in.
//
// It requests a page that is known to be empty over plain HTTP, on each uplink at once. Any other answer comes from a
// portal: a redirect, which is not followed, says where to sign in; a page in place of an empty one is the portal itself. Each request has a
// random challenge. A server that supports it echoes the challenge, which exposes answers from a cache.
//
// It does not decide when to look, opens nothing, judges no portal's address beyond what Parse says, and never sends
// credentials.
package portal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"penstock/policy/iprange"
)

// lookTime bounds all requests together.
const lookTime = 3 * time.Second

const (
	challengeHeader = "X-Penstock-Challenge" // random, in each request
	responseHeader  = "X-Penstock-Response"  // "response " and the challenge, from servers that echo it
	longestURL      = 2048                   // bytes; no sign-in page needs more
)

// DefaultProbes are public pages for this purpose: they are empty and have status 204.
func DefaultProbes() []string {
	return []string{"http://connectivitycheck.gstatic.com/generate_204", "http://cp.cloudflare.com/generate_204"}
}

// Config configures a Detector.
type Config struct {
	// Probes are the URLs of empty pages. Empty means DefaultProbes.
	Probes []string
	// Dial connects to an address and port by one of the uplinks that Look was given. It must keep the connection out of
	// our TUN.
	Dial func(ctx context.Context, uplink, network, address string) (net.Conn, error)
	// Resolve finds the addresses of a name with the resolvers of the network.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Log may be nil.
	Log *slog.Logger
}

// Portal is a captive portal. Parse makes a valid one; a Portal without a Host leads nowhere.
type Portal struct {
	URL    string // where to sign in, without user information and fragment
	Scheme string // http or https
	Host   string // a name in lower case without a trailing dot, or an IP address without brackets and zone
	Port   uint16 // never 0: the scheme's own if the URL has none
	Uplink string // the interface on which it answered
}

// Addr is the host's IP address; invalid if it has a name.
func (p Portal) Addr() netip.Addr {
	a, err := netip.ParseAddr(p.Host)
	if err != nil {
		return netip.Addr{}
	}
	return a
}

// Parse reads the URL of a portal that answered on uplink. The network chooses this URL, so Parse refuses what no portal
// needs: other schemes than HTTP and HTTPS, a host that is neither a DNS name nor an address, and hosts that every machine
// takes for itself or that are never on somebody else's machine, such as localhost, 127.0.0.1 and the metadata service of
// a cloud. A private address passes: whether it is the access network's own is for the caller to judge.
func Parse(raw, uplink string) (Portal, error) {
	if len(raw) > longestURL {
		return Portal{}, fmt.Errorf("portal's URL has %d bytes, want at most %d", len(raw), longestURL)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return Portal{}, fmt.Errorf("portal's URL: %w", err)
	}
	p := Portal{Scheme: u.Scheme, Uplink: uplink}
	switch u.Scheme {
	case "http":
		p.Port = 80
	case "https":
		p.Port = 443
	default:
		return Portal{}, fmt.Errorf("portal's URL has the scheme %q, want http or https", u.Scheme)
	}
	if p.Host, err = parseHost(u.Hostname()); err != nil {
		return Portal{}, err
	}
	if text := u.Port(); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return Portal{}, fmt.Errorf("portal's URL has the port %q, want 1 to 65535", text)
		}
		p.Port = uint16(n)
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	p.URL = u.String()
	return p, nil
}

// parseHost returns a URL's host in the form that Portal has it.
func parseHost(host string) (string, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		if a.Zone() != "" || iprange.IsReserved(a) {
			return "", fmt.Errorf("portal's host %s is not an address that a portal can have", host)
		}
		return a.String(), nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if !isName(host) || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return "", fmt.Errorf("portal's host %q is not a name that a portal can have", host)
	}
	return host, nil
}

// isName reports whether s is a DNS name in lower case. What ends in a number is an IPv4 address in one of the forms that
// browsers read and netip does not, such as 0x7f.1: it is not a name (WHATWG URL, 3.5).
func isName(s string) bool {
	const longestLabel, longestName = 63, 253 // RFC 1035, 2.3.4
	if len(s) > longestName {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > longestLabel {
			return false
		}
		for _, r := range label {
			if !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_') {
				return false
			}
		}
		last = label
	}
	digits := strings.Trim(last, "0123456789") == ""
	return !digits && !strings.HasPrefix(last, "0x")
}

// Detector looks for portals. It is safe for concurrent use.
type Detector struct {
	cfg   Config
	looks atomic.Uint32
}

// New makes a detector. Dial and Resolve must be set.
func New(c Config) *Detector {
	if len(c.Probes) == 0 {
		c.Probes = DefaultProbes()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Detector{cfg: c}
}

// Look sends a request by each uplink and returns the first portal that answers. clear means that there is none: a page was
// as empty as it should be, and no other page was not. If neither ok nor clear is true, nobody answered. Each call uses
// the next probe.
func (d *Detector) Look(ctx context.Context, uplinks []string) (found Portal, ok, clear bool) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	type answer struct {
		portal Portal
		free   bool
		err    error
	}
	probe := d.cfg.Probes[int(d.looks.Add(1)-1)%len(d.cfg.Probes)]
	answers := make(chan answer, len(uplinks))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before the wait
	for _, uplink := range uplinks {
		wg.Go(func() {
			p, captive, err := d.ask(ctx, uplink, probe)
			answers <- answer{p, err == nil && !captive, err}
		})
	}
	for range cap(answers) {
		switch a := <-answers; {
		case a.err != nil:
			d.cfg.Log.Debug("a portal probe was not answered", "err", a.err)
		case a.free:
			clear = true
		default:
			return a.portal, true, false
		}
	}
	return Portal{}, false, clear
}

// ask requests one page. captive means that a portal answered in its place.
func (d *Detector) ask(ctx context.Context, uplink, probe string) (p Portal, captive bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, probe, nil)
	if err != nil {
		return Portal{}, false, err
	}
	challenge := rand.Text()
	req.Header.Set(challengeHeader, challenge)
	req.Header.Set("Cache-Control", "no-cache")
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return d.dial(ctx, uplink, network, address)
		},
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Portal{}, false, fmt.Errorf("probe by %s: %w", uplink, err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4096)
	if genuine(resp, challenge) {
		return Portal{}, false, nil
	}
	return where(resp, uplink), true, nil
}

// genuine reports whether a response is the empty page that was requested.
func genuine(resp *http.Response, challenge string) bool {
	echo := resp.Header.Get(responseHeader)
	return resp.StatusCode == http.StatusNoContent && (echo == "" || echo == "response "+challenge)
}

// where returns the portal that a response names: the target of a redirect, or else the page that was requested.
func where(resp *http.Response, uplink string) Portal {
	if to, err := resp.Location(); err == nil {
		if p, err := Parse(to.String(), uplink); err == nil {
			return p
		}
	}
	requested := resp.Request.URL.String()
	p, err := Parse(requested, uplink)
	if err != nil {
		return Portal{URL: requested, Uplink: uplink}
	}
	return p
}

// dial tries the addresses of a name in turn.
func (d *Detector) dial(ctx context.Context, uplink, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs, err := d.cfg.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	errs := []error{fmt.Errorf("connect to %s by %s", address, uplink)}
	for _, a := range addrs {
		conn, err := d.cfg.Dial(ctx, uplink, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
