package stack

import (
	"testing"

	"penstock/stack/link"
	"penstock/stack/packet"
	"penstock/stack/transit"
)

// nudged counts what a flow sends its server of its own accord.
type nudged struct {
	*crossing
	n int
}

func (n *nudged) ToServer(link.Meta, []byte) { n.n++ }

// TestNudgeLeavesAFlowAloneThatIsNotPassedYet: while its port is looked for, it is among the guests now and then.
func TestNudgeLeavesAFlowAloneThatIsNotPassedYet(t *testing.T) {
	s, err := New(Config{Name: "far", Addrs: serverAddrs})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	client := addr("10.0.1.2:1000")
	c := &crossing{near: s, far: s}
	sent := &nudged{crossing: c}
	c.Flow = transit.New(transit.Config{Client: client, Server: web, Mapped: addr("10.0.0.1:1000"), ISN: 7, MTU: 1500, Owner: sent}, s.now())
	syn, fault := packet.Parse(link.Meta{}, segment(client, web, 7, 0, flagSYN, nil))
	if fault != "" {
		t.Fatal(fault)
	}
	if step := c.FromClient(link.Meta{}, &syn, s.now()); step != transit.Cross {
		t.Fatalf("got step %d of a SYN", step)
	}
	s.crossings.guests.Add(c)
	defer s.crossings.guests.Remove(c)
	for want := range 2 { // the second time it has passed
		if s.Nudge(); sent.n != want {
			t.Errorf("got %d SYNs, want %d", sent.n, want)
		}
		c.begun.Store(true)
	}
}
