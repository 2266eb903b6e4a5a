// Package portal finds captive portals: networks that answer for others until somebody has signed in.
//
// A page that is known to be empty is asked for over plain HTTP, on each uplink at once. Another answer is the portal's:
// a redirect (not followed) says where to sign in, a page in place of none that somebody tampers. A random challenge
// goes along; a server that knows it echoes it, so that an answer out of somebody's cache is found out.
//
// It does not decide when to look, opens nothing for anybody and never sends a credential.
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
	"sync"
	"time"
)

// lookTime is how long all questions together may take.
const lookTime = 3 * time.Second

const (
	challengeHeader = "X-Penstock-Challenge" // random, in each question
	responseHeader  = "X-Penstock-Response"  // "response " and the challenge, from servers that echo it
	longestURL      = 2048                   // bytes: more is no place to sign in at
)

// DefaultProbes are pages that are empty, with status 204, and there for this use.
func DefaultProbes() []string {
	return []string{"http://connectivitycheck.gstatic.com/generate_204", "http://cp.cloudflare.com/generate_204"}
}

// Config says what is asked for, and how.
type Config struct {
	// Probes are the URLs of empty pages. Empty means DefaultProbes.
	Probes []string
	// Dial connects to an address and port by an uplink, which is one of Look's. It must keep the connection out of our TUN.
	Dial func(ctx context.Context, uplink, network, address string) (net.Conn, error)
	// Resolve finds the addresses of a name with the resolvers of the network.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Log may be nil.
	Log *slog.Logger
}

// Portal is one that was found.
type Portal struct {
	URL    string // where to sign in: what the redirect names, else the page that was asked for
	Uplink string
}

// Host is the name or address that the URL leads to; empty if it leads nowhere.
func (p Portal) Host() string {
	u, err := url.Parse(p.URL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// Detector looks for portals. It may be used by several goroutines.
type Detector struct{ cfg Config }

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

// Look asks by each uplink and returns the first portal that answers. clear says that an uplink is free: a page was as empty
// as it should be, and none was not. Neither means that nobody answered.
func (d *Detector) Look(ctx context.Context, uplinks []string) (found Portal, ok, clear bool) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	type answer struct {
		portal Portal
		free   bool
		err    error
	}
	answers := make(chan answer, len(uplinks)*len(d.cfg.Probes))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before the wait
	for _, uplink := range uplinks {
		for _, probe := range d.cfg.Probes {
			wg.Go(func() {
				where, err := d.ask(ctx, uplink, probe)
				answers <- answer{Portal{where, uplink}, err == nil && where == "", err}
			})
		}
	}
	for range cap(answers) {
		switch a := <-answers; {
		case a.err != nil:
			d.cfg.Log.Debug("a portal probe was not answered", "uplink", a.portal.Uplink, "err", a.err)
		case a.free:
			clear = true
		default:
			return a.portal, true, false
		}
	}
	return Portal{}, false, clear
}

// ask asks for one page and returns where the portal is; empty if the page is as it should be.
func (d *Detector) ask(ctx context.Context, uplink, probe string) (where string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, probe, nil)
	if err != nil {
		return "", err
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
		return "", err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4096)
	return judge(resp, challenge), nil
}

// judge returns where the portal is that gave an answer; empty if it is what was asked for.
func judge(resp *http.Response, challenge string) string {
	asked := resp.Request.URL.String()
	if resp.StatusCode == http.StatusNoContent {
		if echo := resp.Header.Get(responseHeader); echo != "" && echo != "response "+challenge {
			return asked
		}
		return ""
	}
	to, err := resp.Location()
	if err != nil || to.Scheme != "http" && to.Scheme != "https" || to.Host == "" || len(to.String()) > longestURL {
		return asked
	}
	to.User, to.Fragment = nil, ""
	return to.String()
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
