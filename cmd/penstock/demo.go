package main

import "github.com/spf13/cobra"

func newDemoCommand(e *env) *cobra.Command {
	options := demoOptions{Stdout: e.stdout, Stderr: e.stderr}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show penstock at work in a small world of its own",
		Long: `Build a small world on this machine (a laptop, a hostile access router, an internet, a gateway and
its intranet), run penstock in it as laptop and as gateway, make real requests and print what
became of each. Nothing outside is touched.

With --fleet the world has two gateways of one site, and NATS between them. The gateway that serves
the laptop is killed in the middle of a stream of requests, without time for a goodbye, and then
bundles are signed and published, one with a bad signature.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if options.Fleet && options.Stay {
				return usagef("the demo of a fleet ends by itself: keep --fleet or --stay")
			}
			if e.demo == nil {
				return errNotBuilt
			}
			return e.demo(cmd.Context(), options)
		},
	}
	cmd.Flags().BoolVar(&options.Stay, "stay", false, "keep the world up until interrupted, and print commands to try in it")
	cmd.Flags().BoolVar(&options.Fleet, "fleet", false, "show two gateways that run as one: one is killed, and signed bundles come")
	cmd.Flags().StringVar(&options.Gateway, "gateway", "", "run one of the fleet's gateways, whose configuration is in this `FILE`")
	if err := cmd.Flags().MarkHidden("gateway"); err != nil { // for the processes of the demo itself
		panic(err)
	}
	return cmd
}
