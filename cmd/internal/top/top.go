// Package top is the live view of a running penstock in a terminal: its state, transports, flows, blocks, peers and rules. It asks
// the control socket and keeps nothing.
package top

import (
	"context"
	"errors"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"

	"penstock/cmd/internal/control"
)

// Config is what the view needs of the world.
type Config struct {
	Dial    func(context.Context) (*control.Client, error)
	Explain func(control.Explanation) string // as text, in lines
	Every   time.Duration                    // between two looks; default 1 s
	In      io.Reader                        // a terminal
	Out     io.Writer                        // the same
	Environ []string                         // says what the terminal can do
	ASCII   bool                             // the terminal shows no other characters
	Colours bool                             // else bold and reverse are all that it gets
}

// Run shows the view until the user quits or ctx ends, which are no errors.
func Run(ctx context.Context, c Config) error {
	if c.Every <= 0 {
		c.Every = time.Second
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &poller{ctx: ctx, config: c}
	defer p.close()
	program := tea.NewProgram(newModel(c, p),
		tea.WithContext(ctx), tea.WithInput(c.In), tea.WithOutput(c.Out), tea.WithEnvironment(c.Environ))
	_, err := program.Run()
	if ctx.Err() != nil || errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}
