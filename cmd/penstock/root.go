package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, e *env, args []string) int {
	root := newRootCommand(e)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		report(e.complaints(), err)
	}
	return exitCode(err)
}

func newRootCommand(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "penstock",
		Short: "A VPN endpoint that judges every flow",
		Long: `penstock takes the packets of this machine or of WireGuard peers, judges every flow by
rules, and refuses it or sends it out directly or through an encrypted transport.

Exit codes: 0 ok, 1 failure, 3 not running or down, 4 degraded, blocked or no permission,
5 invalid configuration, 6 blocked by policy, 64 usage.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          needsCommand,
	}
	root.Version = version()
	root.SetVersionTemplate(versionLine() + "\n")
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	root.SetIn(e.stdin)
	root.PersistentPreRunE = e.configFromEnv
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v; see %s --help", err, cmd.CommandPath())
	})
	root.PersistentFlags().StringVar(&e.socket, "socket", "", "control socket `FILE` of the running penstock (default $PENSTOCK_SOCKET, else that of root or of this user)")
	root.AddCommand(
		newRunCommand(e), newCheckCommand(e), newCleanupCommand(e), newLockdownCommand(e), newDemoCommand(e),
		newStatusCommand(e), newSteerCommand(e, "up"), newSteerCommand(e, "down"), newSteerCommand(e, "reconnect"),
		newFlowsCommand(e), newHistoryCommand(e), newExplainCommand(e), newRulesCommand(e), newReloadCommand(e), newAllowCommand(e), newDrainCommand(e),
		newBlockCommand(e), newDecisionsCommand(e), newPauseCommand(e), newResumeCommand(e),
		newConsoleCommand(e), newDNSCommand(e), newListsCommand(e), newPeerCommand(e), newFleetCommand(e), newJoinCommand(e), newLoginCommand(e),
		newGenkeyCommand(e), newPubkeyCommand(e), newImportCommand(e), newVersionCommand(e), newTopCommand(e), newNoticesCommand(e),
		newInitCommand(e), newConfigCommand(e), newDoctorCommand(e), newBundleCommand(e),
	)
	root.AddCommand(newManualCommand(e))
	addCompletions(e, root)
	refuseUnknownHelp(root)
	return root
}

// refuseUnknownHelp makes help about a command that there is not an error. Cobra shows the help of its parent.
func refuseUnknownHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	if err != nil {
		return
	}
	show := help.Run
	help.Run = nil
	help.RunE = func(cmd *cobra.Command, args []string) error {
		if found, rest, err := root.Find(args); err == nil && len(rest) > 0 {
			return needsCommand(found, rest)
		}
		show(cmd, args)
		return nil
	}
}

// needsCommand is the function of a command that only groups others.
func needsCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		cmd.SetOut(cmd.ErrOrStderr())
		cmd.Help() // it can only fail where the error below fails too
		return exitError{code: exitUsage}
	}
	mend := fmt.Sprintf("see %s --help", cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		mend = fmt.Sprintf("did you mean %q?", near[0])
	}
	return usagef("%s has no command %q: %s", cmd.CommandPath(), args[0], mend)
}

// takes checks the number of arguments. The usage line says what they are.
func takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("an argument is missing: the usage is %s", cmd.UseLine())
		case len(args) > most:
			return usagef("%q is one argument too many: the usage is %s", args[most], cmd.UseLine())
		}
		return nil
	}
}

// onlyCommands refuses arguments of a command that does something itself and also has commands below it.
func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return needsCommand(cmd, args)
	}
	return nil
}
