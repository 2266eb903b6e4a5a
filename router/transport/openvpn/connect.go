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
)

const (
	defaultConnect = 2 * time.Minute
	patience       = 3 * time.Second // for the first answer of a remote, while there are others
	roundPause     = time.Second     // between two rounds through all remotes
	loginTries     = 4               // attempts with other credentials within one Connect
	restartPause   = time.Second     // a server that said RESTART closes its port a moment later
)

// errUnanswered marks failures that another remote, or the next second, may not have.
var errUnanswered = errors.New("no answer")

// Connect brings up a new session: the profile's remotes and their addresses in turn, until one is established, ctx is
// done, or a server gives a reason that another attempt would meet as well. A session that is up is ended first.
func (c *Client) Connect(ctx context.Context) error {
	if !c.join() {
		return errClosed
	}
	defer c.wg.Done()
	c.pump.Do(func() { c.wg.Go(c.runPump) })
	limit := c.cfg.Profile.connect
	if limit == 0 {
		limit = defaultConnect
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
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
	if err := pause(ctx, time.Until(c.notBefore)); err != nil {
		return c.failed(transport.ReasonHandshakeFailed, fmt.Errorf("the server asked to wait: %w", err))
	}
	var err error
	for tries := 0; ; {
		if err = c.connectRound(ctx); err == nil {
			return nil
		}
		switch {
		case ctx.Err() != nil:
			return err
		case errors.Is(err, errTryAgain) && tries < loginTries:
			tries++
		case errors.Is(err, errUnanswered):
			if pause(ctx, roundPause) != nil {
				return err
			}
		default:
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// connectRound tries every remote once, starting with the one that worked last.
func (c *Client) connectRound(ctx context.Context) error {
	remotes := c.cfg.Profile.Remotes
	if c.cfg.Profile.RemoteRandom && c.counters.lastHandshake.get().IsZero() {
		c.next = rand.IntN(len(remotes))
	}
	var last error
	for range remotes {
		remote := remotes[c.next%len(remotes)]
		addrs, err := c.resolve(ctx, remote)
		if err != nil {
			last = c.failed(transport.ReasonEndpointUnresolved, fmt.Errorf("%w: %w", errUnanswered, err))
		}
		for i, addr := range addrs {
			alone := len(remotes) == 1 && i == len(addrs)-1
			if last = c.attempt(ctx, remote, addr, alone); last == nil || !errors.Is(last, errUnanswered) || ctx.Err() != nil {
				return last
			}
		}
		c.next++
	}
	return last
}

// resolve returns a remote's addresses of the families its network allows.
func (c *Client) resolve(ctx context.Context, r Remote) ([]netip.Addr, error) {
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

// attempt runs one session up to the point where it carries data. alone says that nobody else waits for a turn.
func (c *Client) attempt(ctx context.Context, r Remote, addr netip.Addr, alone bool) error {
	sent, err := c.credentials(ctx)
	if err != nil {
		return err
	}
	endpoint := netip.AddrPortFrom(addr, r.Port)
	dialCtx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	l, err := c.dial(dialCtx, r.Network, endpoint)
	if err != nil {
		return c.failed(transport.ReasonHandshakeFailed, fmt.Errorf("%w: %w", errUnanswered, err))
	}
	s, err := newSession(c, l, r.Network, sent)
	if err != nil {
		_ = l.close()
		return c.failed(transport.ReasonError, err)
	}
	c.log.Debug("connecting", "endpoint", endpoint, "network", r.Network)
	c.wg.Go(func() { s.run(context.WithoutCancel(ctx)) })

	var impatient <-chan time.Time
	if !alone {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		impatient = timer.C
	}
	for {
		select {
		case <-s.ready:
			return c.adopt(s)
		case <-s.done:
			return s.err
		case <-impatient:
			if impatient = nil; s.answered.Load() {
				continue
			}
			return s.giveUp(fmt.Errorf("%w from %s %s", errUnanswered, r.Network, endpoint))
		case <-ctx.Done():
			return s.giveUp(fmt.Errorf("%s with %s %s: %w", s.stage(), r.Network, endpoint, ctx.Err()))
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
	c.log.Info("connected", "endpoint", s.outer().remote())
	return nil
}
