package control

import "context"

// fake is a penstock of test functions. A nil function is not offered.
type fake struct {
	status      func() (Status, error)
	reload      func(ReloadQuery) (Reloaded, error)
	flows       func(FlowQuery) ([]Flow, error)
	killFlow    func(id string) error
	quotaReset  func(name string) error
	access      func(PeerAccess) error
	answer      func(AnswerQuery) error
	signOut     func(peer string) error
	signIns     func() ([]SignIn, error)
	explain     func(ExplainQuery) (Explanation, error)
	rules       func() (Rules, error)
	allow       func(AllowQuery) (Allowed, error)
	block       func(BlockQuery) (Blocked, error)
	decisions   func() (Decisions, error)
	undecide    func(DecisionRemoval) (DecisionRemoved, error)
	drain       func(DrainOrder) error
	up          func(Steer) error
	down        func(Steer) error
	reconnect   func(Steer) error
	dnsQuery    func(DNSQuery) (DNSAnswer, error)
	dnsFlush    func() error
	lists       func() ([]ListStatus, error)
	listLookup  func(name string) ([]ListHit, error)
	listRefresh func() error
	peers       func() ([]PeerStatus, error)
	invite      func(InviteQuery) (Invited, error)
	invitations func() ([]Invitation, error)
	uninvite    func(name string) error
	doctor      func() ([]Finding, error)
}

// config serves the fake as everything.
func (f *fake) config() Config {
	return Config{Process: f, Flows: f, Policy: f, Decisions: f, Transports: f, DNS: f, Lists: f, Peers: f, Invites: f, Doctor: f}
}

func offer[Out any](f func() (Out, error)) (Out, error) {
	if f == nil {
		var none Out
		return none, ErrNotOffered
	}
	return f()
}

func offerOf[In, Out any](f func(In) (Out, error), in In) (Out, error) {
	if f == nil {
		var none Out
		return none, ErrNotOffered
	}
	return f(in)
}

func order(f func() error) error {
	if f == nil {
		return ErrNotOffered
	}
	return f()
}

func orderOf[In any](f func(In) error, in In) error {
	if f == nil {
		return ErrNotOffered
	}
	return f(in)
}

func (f *fake) Status(context.Context) (Status, error) { return offer(f.status) }
func (f *fake) Reload(_ context.Context, q ReloadQuery) (Reloaded, error) {
	return offerOf(f.reload, q)
}
func (f *fake) Flows(_ context.Context, q FlowQuery) ([]Flow, error) { return offerOf(f.flows, q) }
func (f *fake) KillFlow(_ context.Context, id string) error          { return orderOf(f.killFlow, id) }
func (f *fake) Explain(_ context.Context, q ExplainQuery) (Explanation, error) {
	return offerOf(f.explain, q)
}
func (f *fake) Rules(context.Context) (Rules, error) { return offer(f.rules) }
func (f *fake) Allow(_ context.Context, q AllowQuery) (Allowed, error) {
	return offerOf(f.allow, q)
}
func (f *fake) Block(_ context.Context, q BlockQuery) (Blocked, error) {
	return offerOf(f.block, q)
}
func (f *fake) Decisions(context.Context) (Decisions, error) { return offer(f.decisions) }
func (f *fake) RemoveDecision(_ context.Context, q DecisionRemoval) (DecisionRemoved, error) {
	return offerOf(f.undecide, q)
}
func (f *fake) Drain(_ context.Context, o DrainOrder) error { return orderOf(f.drain, o) }
func (f *fake) Up(_ context.Context, q Steer) error         { return orderOf(f.up, q) }
func (f *fake) Down(_ context.Context, q Steer) error       { return orderOf(f.down, q) }
func (f *fake) Reconnect(_ context.Context, q Steer) error  { return orderOf(f.reconnect, q) }
func (f *fake) DNSQuery(_ context.Context, q DNSQuery) (DNSAnswer, error) {
	return offerOf(f.dnsQuery, q)
}
func (f *fake) DNSFlush(context.Context) error                   { return order(f.dnsFlush) }
func (f *fake) Lists(context.Context) ([]ListStatus, error)      { return offer(f.lists) }
func (f *fake) ListRefresh(context.Context) error                { return order(f.listRefresh) }
func (f *fake) SignIns(context.Context, Steer) ([]SignIn, error) { return offer(f.signIns) }
func (f *fake) Answer(_ context.Context, q AnswerQuery) error    { return orderOf(f.answer, q) }
func (f *fake) SignOut(_ context.Context, name string) error     { return orderOf(f.signOut, name) }
func (f *fake) SetPeerAccess(_ context.Context, a PeerAccess) error {
	return orderOf(f.access, a)
}
func (f *fake) PeerQuotaReset(_ context.Context, name string) error {
	return orderOf(f.quotaReset, name)
}
func (f *fake) Peers(context.Context) ([]PeerStatus, error) { return offer(f.peers) }
func (f *fake) ListLookup(_ context.Context, name string) ([]ListHit, error) {
	return offerOf(f.listLookup, name)
}
func (f *fake) Invite(_ context.Context, q InviteQuery) (Invited, error) {
	return offerOf(f.invite, q)
}
func (f *fake) Invitations(context.Context) ([]Invitation, error) { return offer(f.invitations) }
func (f *fake) Uninvite(_ context.Context, name string) error     { return orderOf(f.uninvite, name) }

func (f *fake) Doctor(context.Context) ([]Finding, error) { return offer(f.doctor) }
