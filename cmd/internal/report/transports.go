package report

import (
	"context"
	"fmt"
	"sync"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/laptop"
	"penstock/cmd/internal/signin"
	"penstock/router/transport"
)

// Transports brings transports up and down for an operator.
type Transports struct {
	Egress *egress.Egress
	Follow *laptop.Follower
}

// Up brings transports up, and down again after Steer.For.
func (t *Transports) Up(_ context.Context, s control.Steer) error {
	return t.steer(s, func(t *egress.Transport) { t.UpFor(s.For) }, (*egress.Transport).Up)
}

// Down takes transports down, and brings them up again after Steer.For.
func (t *Transports) Down(_ context.Context, s control.Steer) error {
	return t.steer(s, func(t *egress.Transport) { t.DownFor(s.For) }, (*egress.Transport).Down)
}

// Reconnect starts new sessions.
func (t *Transports) Reconnect(_ context.Context, s control.Steer) error {
	return t.each(s, func(t *egress.Transport) { t.Reconnect() })
}

// SignIns returns what the servers of transports ask, and asks the DNS servers of the connected ones whether they are gateways with a
// page for signing in.
func (t *Transports) SignIns(ctx context.Context, s control.Steer) ([]control.SignIn, error) {
	transports, err := t.Egress.Steered(s.Name)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	found := make([]*control.SignIn, len(transports))
	for i, one := range transports {
		if q, asks := one.Question(); asks {
			found[i] = &control.SignIn{
				Transport: one.Name, ID: q.ID, Again: q.Again, Why: q.Why, URL: q.URL, Needed: true, User: q.User, Question: q.Text, Echo: q.Echo, NeedUser: q.NeedUser,
			}
			continue
		}
		if one.Health().State != transport.Connected {
			continue
		}
		wg.Go(func() {
			dialer, _ := t.Egress.Dialer(one.Name)
			for _, server := range one.Resolvers() {
				if here, err := signin.Find(ctx, dialer.DialContext, server.Addr()); err == nil {
					found[i] = &control.SignIn{Transport: one.Name, URL: here.URL, Needed: here.Needed, User: here.User, Until: here.Until}
					return
				}
			}
		})
	}
	wg.Wait()
	list := []control.SignIn{}
	for _, one := range found {
		if one != nil {
			list = append(list, *one)
		}
	}
	return list, nil
}

// Answer answers the question of a transport's server.
func (t *Transports) Answer(_ context.Context, q control.AnswerQuery) error {
	one, ok := t.Egress.Transport(q.Transport)
	if !ok {
		return fmt.Errorf("there is no transport %q: \"penstock status\" lists them", q.Transport)
	}
	return one.Answer(egress.Reply{ID: q.ID, User: q.User, Text: q.Answer})
}

// steer gives an order that holds until the next one or, with s.For, for that long. Then on_demand reverts it if it is in
// use, and otherwise the transport itself.
func (t *Transports) steer(s control.Steer, forAWhile, forGood func(*egress.Transport)) error {
	if _, err := t.Egress.Steered(s.Name); err != nil {
		return err
	}
	if t.Follow.Override(s.For) || s.For <= 0 {
		return t.each(s, forGood)
	}
	return t.each(s, forAWhile)
}

func (t *Transports) each(s control.Steer, order func(*egress.Transport)) error {
	transports, err := t.Egress.Steered(s.Name)
	if err != nil {
		return err
	}
	for _, one := range transports {
		order(one)
	}
	return nil
}
