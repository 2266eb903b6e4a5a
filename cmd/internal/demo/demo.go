// Package demo shows penstock at work in a small world: a laptop on a hostile access network, an internet with a gambling
// site, and a company's gateway and intranet. It runs two penstocks and makes real requests like programs on the laptop. It
// prints what happened to each, which rule decided, and what the access network saw.
//
// The world consists of network namespaces if the machine allows them, and otherwise of in-memory links. It does not change the
// machine, and sends nothing to the machine's own networks.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"penstock/cmd/internal/control"
)

// Options say where the demo prints, and whether its world stays up.
type Options struct {
	Memory         bool         // use in-memory links even if namespaces are available
	Stay           bool         // keep the world up until ctx ends, and print commands to try
	Console        net.Listener // with Stay, where the laptop's console is served; may be nil
	Stdout, Stderr io.Writer
}

// programs does what programs on the laptop can do.
type programs interface {
	dial(ctx context.Context, network, address string) (net.Conn, error)
	lookup(ctx context.Context, name string) ([]netip.Addr, error)
	// ping sends one echo request of size bytes and waits for its reply.
	ping(ctx context.Context, to netip.Addr, size int) error
	trust() *trust
}

// world is the network in which the demo runs.
type world interface {
	programs
	// control returns a client for the laptop's penstock.
	control(ctx context.Context) (*control.Client, error)
	// seen is called at the end. It describes the traffic outside the tunnel. It returns an error if anything was sent in clear.
	seen() (string, error)
	// hints returns commands to try while the world is up.
	hints() []string
	close() error
}

// errNotAsPromised means that a row had another result than expected. The table says which.
var errNotAsPromised = errors.New("some results are not as expected")

// Run builds the world, makes all requests, prints the table and takes the world down. The error is nil only if every row had
// the expected result.
func Run(ctx context.Context, o Options) (err error) {
	w, err := build(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	c, err := w.control(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := awaitConnected(ctx, c, o.Stderr); err != nil {
		return err
	}
	good := table(ctx, w, c, o.Stdout)
	if o.Stay {
		return stay(ctx, w, c, o)
	}
	if !good {
		return errNotAsPromised
	}
	return nil
}

// awaitConnected waits until the laptop's penstock is connected, and prints its status meanwhile.
func awaitConnected(ctx context.Context, c *control.Client, progress io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	last := ""
	for {
		s, err := c.Status(ctx)
		if err != nil {
			return fmt.Errorf("ask the laptop's penstock: %w", err)
		}
		if s.Verdict != last {
			fmt.Fprintln(progress, "laptop: "+s.Verdict)
			last = s.Verdict
		}
		if s.State == "connected" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the laptop did not connect: %s", s.Verdict)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// table runs every row and prints it. It reports whether all results were as expected.
func table(ctx context.Context, w world, c *control.Client, out io.Writer) bool {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TRIED FROM THE LAPTOP\tWHAT HAPPENED\tRULE\tWENT\t")
	all := true
	for _, r := range rows() {
		before := newest(ctx, c)
		got, err := r.try(ctx, w)
		if err != nil {
			got = "failed: " + err.Error()
		}
		rule, went := decided(ctx, c, r, before)
		mark := "ok"
		if got != r.want || rule != r.rule || went != r.went {
			mark, all = fmt.Sprintf("NOT AS EXPECTED: want %s, rule %s, %s", r.want, r.rule, r.went), false
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.what, oneLine(got), rule, went, mark)
	}
	t.Flush()
	seen, err := w.seen()
	if err != nil {
		fmt.Fprintln(out, "\n"+err.Error())
		return false
	}
	fmt.Fprintln(out, "\n"+seen)
	return all
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// newest returns the id of the newest flow of the laptop's penstock.
func newest(ctx context.Context, c *control.Client) int {
	flows, err := c.Flows(ctx, control.FlowQuery{Recent: true})
	if err != nil {
		return 0
	}
	return highest(flows.Flows)
}

func highest(flows []control.Flow) int {
	top := 0
	for _, f := range flows {
		top = max(top, number(f.ID))
	}
	return top
}

func number(id string) int {
	n := 0
	fmt.Sscan(id, &n)
	return n
}

// decided finds the flow that a row made, and returns the deciding rule and where the flow went. If the row ended with its DNS
// question, it asks about the question instead.
func decided(ctx context.Context, c *control.Client, r row, after int) (rule, went string) {
	if r.question != "" {
		a, err := c.DNSQuery(ctx, control.DNSQuery{Name: r.question})
		if err != nil {
			return err.Error(), ""
		}
		if a.Rule != "" {
			return a.Rule, "nowhere"
		}
		return "", "dns"
	}
	for range 40 { // a refused flow is recorded just after its client got the answer
		flows, err := c.Flows(ctx, control.FlowQuery{Recent: true})
		if err != nil {
			return err.Error(), ""
		}
		for _, f := range flows.Flows {
			if number(f.ID) <= after || f.Verdict == "dns" || !strings.HasSuffix(f.Dst, r.port) {
				continue
			}
			switch f.Verdict {
			case "via":
				return f.Rule, "via " + f.Via
			case "direct":
				return f.Rule, "direct"
			}
			return f.Rule, "nowhere"
		}
		time.Sleep(25 * time.Millisecond)
	}
	return "", ""
}
