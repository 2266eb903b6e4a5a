package main

import "github.com/spf13/cobra"

func newDemoCommand(e *env) *cobra.Command {
	options := demoOptions{Stdout: e.stdout, Stderr: e.stderr}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show penstock at work in a small world of its own",
		Long: `Build a small world on this machine (a laptop, a hostile access router, an internet, a gateway and
its intranet), run penstock in it as laptop and as gateway, make real requests and print what
became of each. Nothing outside is touched.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.demo == nil {
				return errNotBuilt
			}
			return e.demo(cmd.Context(), options)
		},
	}
	cmd.Flags().BoolVar(&options.Stay, "stay", false, "keep the world up until interrupted, and print commands to try in it")
	return cmd
}
