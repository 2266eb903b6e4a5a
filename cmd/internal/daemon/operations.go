package daemon

import (
	"context"

	"penstock/cmd/internal/control"
	"penstock/policy"
)

// operations is the daemon as the control socket sees it.
type operations struct{ d *Daemon }

func (o operations) Status(ctx context.Context) (control.Status, error) { return o.d.status(ctx) }

func (o operations) Reload(ctx context.Context, q control.ReloadQuery) (control.Reloaded, error) {
	return o.d.reload(ctx, q)
}

func (o operations) Flows(ctx context.Context, q control.FlowQuery) ([]control.Flow, error) {
	return o.d.flows(ctx, q)
}

func (o operations) KillFlow(ctx context.Context, id string) error { return o.d.killFlow(ctx, id) }

func (o operations) Explain(ctx context.Context, q control.ExplainQuery) (control.Explanation, error) {
	return o.d.explain(ctx, q)
}

func (o operations) Rules(ctx context.Context) (control.Rules, error) { return o.d.ruleStatus(ctx) }

func (o operations) Allow(ctx context.Context, q control.AllowQuery) (control.Allowed, error) {
	return o.d.allow(ctx, q)
}

func (o operations) Up(ctx context.Context, s control.Steer) error   { return o.d.up(ctx, s) }
func (o operations) Down(ctx context.Context, s control.Steer) error { return o.d.down(ctx, s) }

func (o operations) Reconnect(ctx context.Context, s control.Steer) error {
	return o.d.reconnect(ctx, s)
}

func (o operations) DNSQuery(ctx context.Context, q control.DNSQuery) (control.DNSAnswer, error) {
	return o.d.dnsQuery(ctx, q)
}

func (o operations) DNSFlush(context.Context) error {
	o.d.dns.Flush()
	return nil
}

func (o operations) Lists(ctx context.Context) ([]control.ListStatus, error) { return o.d.lists(ctx) }

func (o operations) ListLookup(_ context.Context, name string) ([]control.ListHit, error) {
	host, err := policy.CanonicalName(name)
	if err != nil {
		return nil, err
	}
	return o.d.lookup(host), nil
}

func (o operations) ListRefresh(ctx context.Context) error { return o.d.rules.lists.Refresh(ctx) }

func (o operations) Peers(ctx context.Context) ([]control.PeerStatus, error) { return o.d.peers(ctx) }
