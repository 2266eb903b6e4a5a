package policy

// Explanation is the whole story of a verdict.
type Explanation struct {
	Verdict    Verdict         `json:"verdict"`
	Pos        Position        `json:"pos"`                  // of the deciding rule
	Because    string          `json:"because"`              // one sentence
	Names      []ExplainedName `json:"names,omitempty"`      // every name of the flow and what it alone leads to
	Categories []CategoryHit   `json:"categories,omitempty"` // every category hit of a name or the destination
	Rules      []ExplainedRule `json:"rules"`                // every rule in order
	Shadowed   []string        `json:"shadowed,omitempty"`   // later rules that match as well
	WouldTurn  []string        `json:"would_turn,omitempty"` // what else known would change the verdict
}

// ExplainedName is one name of a flow.
type ExplainedName struct {
	Host    string `json:"host"`
	From    string `json:"from"`    // question, dns, sni, http, quic
	Judged  bool   `json:"judged"`  // the verdict is this name's
	Verdict string `json:"verdict"` // refuse, drop, via EGRESS
	Rule    string `json:"rule"`
}

// CategoryHit says that a name or an address is in a category.
type CategoryHit struct {
	What     string `json:"what"`
	Category string `json:"category"`
	Excepted bool   `json:"excepted,omitempty"` // lifted by an Exception now
}

// ExplainedRule is one rule and whether it matches.
type ExplainedRule struct {
	Name     string   `json:"name"`
	Pos      Position `json:"pos"`
	Match    string   `json:"match"` // yes, no, maybe
	Why      string   `json:"why"`
	Deciding bool     `json:"deciding,omitempty"`
}

// Explain judges a flow as Decide does and says why. It is slow.
func (p *Policy) Explain(f Flow) Explanation { return Explanation{} }
