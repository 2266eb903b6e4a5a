package openvpn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/link"
	"penstock/router/transport/openvpn/internal/login"
	"penstock/router/transport/openvpn/profile"
)

const (
	defaultPoll  = 2 * time.Minute // for the first answer of any remote (server-poll-timeout)
	patience     = 3 * time.Second // for the first answer of one remote, while there are others
	dialTime     = 6 * time.Second // for a TCP connection
	roundPause   = time.Second     // between two rounds through all remotes
	loginTries   = 4               // attempts with other credentials within one Connect
	restartPause = time.Second     // a server that said RESTART closes its port a moment later
)

// errUnanswered marks failures that need not happen with another remote, or a second later.
var errUnanswered = errors.New("no answer")

// Connect brings up a new session: the profile's remotes and their addresses in turn, until one is established, ctx is
// done, or a server gives a reason that another attempt would meet as well. A session that is up is ended first. Once a
// server has answered, it has the time of a negotiation (hand-window) to check who the user is.
func (c *Client) Connect(ctx context.Context) error {
	if !c.join() {
		return errClosed
	}
	defer c.wg.Done()
	c.pump.Do(func() { c.wg.Go(c.runPump) })
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.wg.Go(func() {
		select {
		case <-c.closed:
			cancel()
		case <-ctx.Done():
		}
	})
	if old := c.session.Swap(nil); old != nil {
		old.leaveNow()
	}
	return c.named(c.connect(ctx))
}

func (c *Client) connect(ctx context.Context) error {
	select {
	case <-time.After(time.Until(c.notBefore)):
	case <-ctx.Done():
		return failed(transport.ReasonHandshakeFailed, fmt.Errorf("the server asked to wait: %w", ctx.Err()))
	}
	begun := time.Now()
	for tries := 0; ; {
		err := c.connectRound(ctx)
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case errors.Is(err, login.ErrTryAgain) && tries < loginTries:
			tries++
		case errors.Is(err, errUnanswered) && time.Since(begun) < c.poll():
			select {
			case <-time.After(roundPause):
			case <-ctx.Done():
				return err
			}
		default:
			return err
		}
	}
}

// poll is how long the first answer of a server may take.
func (c *Client) poll() time.Duration {
	if d := c.cfg.Profile.Timers.Poll; d > 0 {
		return d
	}
	return defaultPoll
}

// connectRound tries every remote once, starting with the one that worked last.
func (c *Client) connectRound(ctx context.Context) error {
	remotes := c.cfg.Profile.Remotes
	if c.cfg.Profile.RemoteRandom && c.meter.lastHandshake.get(c.meter.began).IsZero() {
		c.next = rand.IntN(len(remotes))
	}
	var last error
	for range remotes {
		remote := remotes[c.next%len(remotes)]
		addrs, err := c.resolve(ctx, remote)
		if err != nil {
			last = failed(transport.ReasonEndpointUnresolved, fmt.Errorf("%w: %w", errUnanswered, err))
		}
		for i, addr := range addrs {
			limit := c.poll()
			if len(remotes) > 1 || i < len(addrs)-1 {
				limit = min(limit, patience)
			}
			last = c.attempt(ctx, remote, addr, limit)
			if last == nil || errors.Is(last, login.ErrTryAgain) || ctx.Err() != nil {
				return last
			}
			if !errors.Is(last, errUnanswered) {
				c.next++ // for the next Connect: this one gives the reason
				return last
			}
		}
		c.next++
	}
	return last
}

// resolve returns a remote's addresses of the families its network allows.
func (c *Client) resolve(ctx context.Context, r profile.Remote) ([]netip.Addr, error) {
	addrs := []netip.Addr{}
	if addr, err := netip.ParseAddr(strings.Trim(r.Host, "[]")); err == nil {
		addrs = append(addrs, addr)
	} else if c.cfg.Resolve != nil {
		if addrs, err = c.cfg.Resolve(ctx, r.Host); err != nil {
			return nil, fmt.Errorf("resolve %s: %w", r.Host, err)
		}
	} else if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", r.Host); err != nil {
		return nil, fmt.Errorf("resolve %s: %w", r.Host, err)
	}
	var out []netip.Addr
	for _, addr := range addrs {
		addr = addr.Unmap()
		if strings.HasSuffix(r.Network, "4") && !addr.Is4() || strings.HasSuffix(r.Network, "6") && !addr.Is6() {
			continue
		}
		out = append(out, addr)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("resolve %s: no address for %s", r.Host, r.Network)
	}
	return out, nil
}

// attempt runs one session up to the point where it carries data. limit is for the server's first answer.
func (c *Client) attempt(ctx context.Context, r profile.Remote, addr netip.Addr, limit time.Duration) error {
	sent, err := c.login.Credentials(ctx)
	if err != nil {
		return err
	}
	endpoint := netip.AddrPortFrom(addr, r.Port)
	dialCtx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	l, err := link.Dial(dialCtx, c.cfg.Dialer, r.Network, endpoint)
	if err != nil {
		return failed(transport.ReasonHandshakeFailed, fmt.Errorf("%w: %w", errUnanswered, err))
	}
	s, err := newSession(context.WithoutCancel(ctx), c, l, r, sent)
	if err != nil {
		_ = l.Close()
		return failed(transport.ReasonError, err)
	}
	c.log.Debug("connecting", "endpoint", endpoint, "network", r.Network)
	c.wg.Go(s.run)
	first := time.NewTimer(limit)
	defer first.Stop()
	for {
		select {
		case <-s.ready:
			return c.adopt(s)
		case <-s.done:
			return s.err
		case <-first.C:
			if !s.answered.Load() {
				return s.giveUp(func() error { return fmt.Errorf("%w from %s %s in %s", errUnanswered, r.Network, endpoint, limit) })
			}
		case <-ctx.Done():
			return s.giveUp(func() error { return fmt.Errorf("%s with %s %s: %w", s.stage(), r.Network, endpoint, ctx.Err()) })
		}
	}
}

// adopt makes an established session the one that carries data.
func (c *Client) adopt(s *session) error {
	c.session.Store(s)
	select {
	case <-s.done: // it ended meanwhile: either ended saw it here, or it is ours to report
		if c.session.CompareAndSwap(s, nil) {
			return s.err
		}
		return nil
	case <-c.closed:
		if c.session.CompareAndSwap(s, nil) {
			s.leave()
		}
		return errClosed
	default:
	}
	c.log.Info("connected", "endpoint", s.data.Remote())
	return nil
}
