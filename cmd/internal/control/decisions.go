package control

import "context"

// DecisionClient makes a Client's calls about decisions.
type DecisionClient struct{ *Client }

var _ DecisionBook = DecisionClient{}

// Allow lets something through for a while.
func (d DecisionClient) Allow(ctx context.Context, q AllowQuery) (Allowed, error) {
	return call[Allowed](ctx, d.Client, "allow", q)
}

// Block blocks something, for a while or always.
func (d DecisionClient) Block(ctx context.Context, q BlockQuery) (Blocked, error) {
	return call[Blocked](ctx, d.Client, "block", q)
}

// Decisions asks what is decided.
func (d DecisionClient) Decisions(ctx context.Context) (Decisions, error) {
	return call[Decisions](ctx, d.Client, "decisions", struct{}{})
}

// RemoveDecision takes a decision back.
func (d DecisionClient) RemoveDecision(ctx context.Context, q DecisionRemoval) (DecisionRemoved, error) {
	return call[DecisionRemoved](ctx, d.Client, "decisions/remove", q)
}
