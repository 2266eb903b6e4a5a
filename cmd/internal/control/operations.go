package control

import "context"

// These interfaces are what a Server asks, by noun. Their methods are called concurrently, and each context ends with
// its request. An answer's APIVersion is filled in by the server. An error reaches the caller as its text, so it says
// what to do; ErrNotOffered says that this penstock cannot do what was asked.
//
// No two of them have a method of the same name: one type may be all of them.

// Process is the running penstock as a whole.
type Process interface {
	Status(context.Context) (Status, error)
	// Reload puts the configuration's file in force, whole or not at all.
	Reload(context.Context, ReloadQuery) (Reloaded, error)
	// Drain makes penstock say that it is not ready, so that who asks goes elsewhere, until it is told otherwise.
	Drain(context.Context, DrainOrder) error
}

// FlowTable is the flows, live and remembered.
type FlowTable interface {
	// Flows returns the flows that match, oldest first.
	Flows(context.Context, FlowQuery) ([]Flow, error)
	KillFlow(ctx context.Context, id string) error
}

// Policy is what decides over flows.
type Policy interface {
	// Explain has no side effect.
	Explain(context.Context, ExplainQuery) (Explanation, error)
	Rules(context.Context) (Rules, error)
}

// DecisionBook keeps what somebody decides while penstock runs.
type DecisionBook interface {
	// Allow lets something through that rules block by name or category, or pauses all such rules.
	Allow(context.Context, AllowQuery) (Allowed, error)
	// Block blocks something before any rule is asked.
	Block(context.Context, BlockQuery) (Blocked, error)
	// Decisions returns what is decided, oldest first.
	Decisions(context.Context) (Decisions, error)
	RemoveDecision(context.Context, DecisionRemoval) (DecisionRemoved, error)
}

// Transports steers the ways out. Each method acts on all of them if the order names none.
type Transports interface {
	Up(context.Context, Steer) error
	Down(context.Context, Steer) error
	Reconnect(context.Context, Steer) error
	// SignIns returns the gateways behind the transports that have a page for signing in.
	SignIns(context.Context, Steer) ([]SignIn, error)
	// Answer answers the question of a transport's server.
	Answer(context.Context, AnswerQuery) error
}

// DNS is the embedded DNS server.
type DNS interface {
	DNSQuery(context.Context, DNSQuery) (DNSAnswer, error)
	DNSFlush(context.Context) error
}

// ListShelf is the lists of the categories.
type ListShelf interface {
	Lists(context.Context) ([]ListStatus, error)
	// ListLookup returns every entry that holds the name, also the exceptions.
	ListLookup(ctx context.Context, name string) ([]ListHit, error)
	// ListRefresh fetches and reads all lists again.
	ListRefresh(context.Context) error
}

// PeerBook is the peers of a gateway.
type PeerBook interface {
	Peers(context.Context) ([]PeerStatus, error)
	// PeerQuotaReset lets a peer use its quota of this month anew.
	PeerQuotaReset(ctx context.Context, name string) error
	// SetPeerAccess changes the file of a peer that penstock has written, and puts it in force.
	SetPeerAccess(context.Context, PeerAccess) error
	// SignOut ends the session of whoever has signed in with the peer of that name.
	SignOut(ctx context.Context, name string) error
}

// InviteBook is the invitations of a gateway.
type InviteBook interface {
	// Invite makes an invitation. Its link is told nowhere else.
	Invite(context.Context, InviteQuery) (Invited, error)
	// Invitations returns the invitations, also those that are over, oldest first.
	Invitations(context.Context) ([]Invitation, error)
	// Uninvite takes back the open invitation of a name.
	Uninvite(ctx context.Context, name string) error
}
