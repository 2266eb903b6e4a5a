// Command bench measures penstock in a lab of network namespaces and prints one table: throughput, datagrams, connections and
// memory. It compares the bare path, penstock to the same server, wireguard-go at both ends, and penstock's tunnel with
// flows that are forwarded, judged in line and terminated; and, if it is given a sing-box, that to the same server with each of
// its stacks.
// Only ratios within one run are meaningful, because all programs, including those that measure, share the machine's cores.
//
// Run it with go run ./e2e/bench. It needs iperf3. All traffic stays inside the lab.
//
// It uses penstock only as a binary, and does not judge the results.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"time"

	"penstock/e2e/netlab"
)

// options are the command-line flags.
type options struct {
	quick    bool
	rounds   int
	only     *regexp.Regexp
	binaries string // directory with penstock, wireguard and perhaps sing-box; empty: build the first two
	perf     string // directory for recordings of perf; empty: none
}

// seconds returns the length of one throughput measurement, without one second of warm-up.
func (o *options) seconds() int {
	if o.quick {
		return 1
	}
	return 4
}

// want reports whether to measure a row in a round, counted from 0. Rows are named "path measure".
func (o *options) want(p path, m measure, round int) bool {
	if p.brief && m.in == wide || round > 0 && m.once {
		return false
	}
	if o.only == nil {
		return !o.quick || m.in == every
	}
	return o.only.MatchString(p.name + " " + m.name)
}

func main() {
	if os.Getenv(roleVar) != "" {
		exit(play(os.Args[1:]))
	}
	var o options
	flag.BoolVar(&o.quick, "quick", false, "shorter and fewer measurements: a minute and a half, less accurate")
	flag.IntVar(&o.rounds, "rounds", 1, "how often to measure all paths in turns, for the median: a `number`. Memory and starts are measured once")
	flag.StringVar(&o.binaries, "binaries", "", "`directory` with penstock, wireguard (wireguard-go) and perhaps sing-box; the first two are built if empty")
	flag.StringVar(&o.perf, "perf", "", "`directory` for a perf recording of each throughput measurement")
	flag.Func("only", "measure only rows whose \"path measure\" matches this `pattern`", func(s string) (err error) {
		o.only, err = regexp.Compile(s)
		return err
	})
	flag.Parse()
	os.Exit(netlab.Enter(func() int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		if err := run(ctx, &o); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run measures all paths, one after the other, and prints the table.
func run(ctx context.Context, o *options) (err error) {
	if err := netlab.Available(ctx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.binaries == "" {
		if err := build(ctx, dir); err != nil {
			return err
		}
		o.binaries = dir
	}
	start := time.Now()
	t := &table{paths: paths(o.binaries)}
	defer func() { t.print(os.Stdout, machine(time.Since(start))) }() // print what has been measured, even after a failure
	for round := range o.rounds {
		t.round = round
		for _, p := range paths(o.binaries) {
			if !o.wantsAny(p, round) {
				continue
			}
			fmt.Fprintf(os.Stderr, "measuring, round %d of %d: %s\n", round+1, o.rounds, p.title)
			if err := p.measure(ctx, o, dir, round, t); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return nil
}

// wantsAny reports whether to measure any row of a path in a round.
func (o *options) wantsAny(p path, round int) bool {
	return slices.ContainsFunc(measures(), func(m measure) bool { return o.want(p, m, round) })
}
