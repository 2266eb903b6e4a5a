package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"penstock/cmd/internal/console"
	"penstock/cmd/internal/control"
)

// tryEvery is how often a program on the laptop does something while the world stays up.
const tryEvery = 2 * time.Second

// stay keeps the world up until ctx ends, with programs that go on, and serves the laptop's console.
func stay(ctx context.Context, w world, c *control.Client, o Options) error {
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if o.Console != nil {
		page := console.New(console.Config{Listener: o.Console, API: control.Forward(c), Version: "demo"})
		link, err := page.Link(control.As(ctx, "", true))
		if err != nil {
			return errors.Join(err, page.Close())
		}
		fmt.Fprintf(o.Stdout, "\nThe laptop's console, for the first browser that opens this link:\n  %s\n", link.URL)
		background.Go(func() { cancel(page.Run(ctx)) })
	}
	fmt.Fprintln(o.Stdout, "\nThe world stays up until you press Ctrl-C. In another terminal, try:")
	for _, h := range w.hints() {
		fmt.Fprintln(o.Stdout, "  "+h)
	}
	tick := time.NewTicker(tryEvery)
	defer tick.Stop()
	all := rows()
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case <-tick.C:
			all[rand.IntN(len(all))].try(ctx, w) // whatever becomes of it is on the console
		}
	}
}
