// Package demo shows penstock at work in a small world of its own: a laptop on a hostile access network, an internet
// with a gambling site, and a company's gateway and intranet. It runs two penstocks, makes real requests as the laptop's
// programs would, and prints what became of each, which rule decided, and what the access network saw.
//
// The world is made of network namespaces where this machine allows it, and of in-memory links elsewhere. Nothing
// outside is touched, and nothing is sent to the machine's own networks.
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

// Options say where the demo prints, and whether it stays.
type Options struct {
	Memory         bool // use in-memory links even where namespaces can be made
	Stay           bool // keep the world up until ctx ends, and print commands to try in it
	Stdout, Stderr io.Writer
}

// programs are what can be done by programs on the laptop.
type programs interface {
	dial(ctx context.Context, network, address string) (net.Conn, error)
	lookup(ctx context.Context, name string) ([]netip.Addr, error)
	// ping sends one echo request of size bytes and waits for its reply.
	ping(ctx context.Context, to netip.Addr, size int) error
	trust() *trust
}

// world is where the demo happens.
type world interface {
	programs
	// control asks the laptop's penstock.
	control(ctx context.Context) (*control.Client, error)
	// seen says what could be seen outside the tunnel, once all is done; an error if anything could.
	seen() (string, error)
	// hints are commands to try while the world stays.
	hints() []string
	close() error
}

// errAsPromised is returned when a row was not as promised. What was wrong stands in the table.
var errNotAsPromised = errors.New("the demo did not go as promised")

// Run builds the world, tries everything, prints the table and takes the world down. The error is nil only if every row
// was as promised.
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
		fmt.Fprintln(o.Stdout, "\nThe world stays up until you press Ctrl-C. Try in another terminal:")
		for _, h := range w.hints() {
			fmt.Fprintln(o.Stdout, "  "+h)
		}
		<-ctx.Done()
		return nil
	}
	if !good {
		return errNotAsPromised
	}
	return nil
}

// awaitConnected waits until the laptop's penstock says that bytes came through, and shows what it says meanwhile.
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

// table tries every row and prints it. It reports whether all were as promised.
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
			mark, all = fmt.Sprintf("NOT AS PROMISED: want %s, rule %s, %s", r.want, r.rule, r.went), false
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

// newest is the number of flows that the laptop's penstock has seen so far.
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

// decided finds the flow that a row made, and says which rule decided it and where it went. A row that ended with its
// DNS question is asked for there.
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
	for range 40 { // a flow that was refused is noted a moment after its client has heard
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
