package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/control"
)

// newSteerCommand makes up, down or reconnect.
func newSteerCommand(e *env, word string) *cobra.Command {
	var order control.Steer
	short := map[string]string{
		"up":        "Connect transports and keep them connected",
		"down":      "Disconnect transports; what rules send through them is refused",
		"reconnect": "Begin new sessions, keeping the flows",
	}
	cmd := &cobra.Command{
		Use:   word + " [TRANSPORT]",
		Short: short[word],
		Long:  short[word] + ".\n\nWithout a name it applies to all transports.",
		Args:  takes(0, 1),
		RunE: e.asking(func(ctx context.Context, client *control.Client, args []string) error {
			order.Name = strings.Join(args, "")
			steer := map[string]func(context.Context, control.Steer) error{
				"up": client.Up, "down": client.Down, "reconnect": client.Reconnect,
			}
			return steer[word](ctx, order)
		}),
	}
	if word != "reconnect" {
		cmd.Flags().DurationVar(&order.For, "for", 0, "undo it after this `TIME`, for example 10m")
	}
	return cmd
}
