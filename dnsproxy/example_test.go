package dnsproxy_test

import (
	"context"
	"fmt"
	"net/netip"

	"penstock/dnsproxy"
	"penstock/policy"
)

// rules is a policy with two rules.
type rules struct{}

func (rules) DecideName(f policy.Flow) policy.Verdict {
	if f.Names[0].Host == "casino.example" {
		return policy.Verdict{Action: policy.Refuse, Rule: "no-gambling", Category: "gambling"}
	}
	return policy.Verdict{Action: policy.Forward, Egress: "direct", Rule: "rest"}
}

func (r rules) Decide(f policy.Flow) policy.Verdict { return r.DecideName(f) }

// A server asks the policy before anybody else, so a blocked name is answered without an upstream.
func Example() {
	plan, err := dnsproxy.Compile(dnsproxy.Settings{Upstreams: []dnsproxy.Upstream{{Name: "main", Address: "10.0.0.53"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := dnsproxy.New(dnsproxy.Config{Policy: rules{}}, plan)
	if err != nil {
		fmt.Println(err)
		return
	}
	f := policy.Flow{Src: netip.MustParseAddrPort("10.77.0.2:40000")}
	a, err := s.Query(context.Background(), f, "Casino.Example", "A")
	fmt.Println(a.Rcode, a.Decided, a.Reason, err)
	// Output: NXDOMAIN casino.example blocked by rule no-gambling <nil>
}
