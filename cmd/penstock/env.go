package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/handover"
	"penstock/cmd/internal/lastgood"
)

// env is what commands use of the world, so that tests can replace it.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	socket         string                                       // of the running penstock; empty: the default
	open           func(ctx context.Context, page string) error // in a browser

	// What the daemon does. A nil function means that this build cannot do it.
	run   func(context.Context, *config.Config, runOptions) error
	check func(context.Context, *config.Config) (checkReport, error)
	// lockdown closes the host as the configuration says and leaves it so.
	lockdown func(context.Context, *config.Config, *slog.Logger) error
	// The functions of a state file report whether lockdown is in force, or was.
	cleanup, restore, lift func(stateFile string, log *slog.Logger) (closed bool, err error)
	closed                 func(stateFile string) (recorded bool, table string, err error)
	cleanupKernel          func(stateFile string, log *slog.Logger) error // undoes what was changed so that the kernel forwards
	demo                   func(context.Context, demoOptions) error
}

// runOptions are the settings of the command line.
type runOptions struct {
	Logger *slog.Logger
	Socket string           // of the command line; empty: the configuration's
	Reload <-chan os.Signal // each signal asks for a reload
	// Sockets are those that a service manager has kept. May be nil.
	Sockets *handover.Sockets
	Good    lastgood.Copy // of the last configuration that worked
	Fault   error         // of the present configuration, if the copy is run instead
}

// checkReport is what compiling the rules and running the configuration's own tests found.
type checkReport struct {
	Rules    int
	Tests    int
	Failed   []string // one sentence for each test that does not hold, with its place
	Files    []string // that the configuration is read from
	Warnings []string // for example rules that no flow can reach
}

// demoOptions are the flags of the demo.
type demoOptions struct {
	Stay           bool   // keep the world up until interrupted
	Fleet          bool   // show several gateways
	Gateway        string // configuration of a gateway to run, in a world that runs already; empty: build one
	Stdout, Stderr io.Writer
}

func newEnv() *env {
	return &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, open: openPage}
}

// errNotBuilt is the error of commands whose function in env is nil.
var errNotBuilt = errors.New("this build of penstock cannot do that")

// dial connects to the running penstock.
func (e *env) dial(ctx context.Context) (*control.Client, error) {
	return control.Dial(ctx, e.socketPath())
}

// asking makes the function of a command that talks to the running penstock.
func (e *env) asking(f func(ctx context.Context, client *control.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		client, err := e.dial(cmd.Context())
		if err != nil {
			return err
		}
		defer client.Close()
		return f(cmd.Context(), client, args)
	}
}

// socketPath returns --socket, or else PENSTOCK_SOCKET. It is empty for the default.
func (e *env) socketPath() string {
	if e.socket != "" {
		return e.socket
	}
	return e.getenv("PENSTOCK_SOCKET")
}

// fromEnv is an annotation of flags: those with "no" are not taken from the environment.
const fromEnv = "from-environment"

// configFromEnv takes PENSTOCK_CONFIG for -c, with every command that has -c and was given neither that nor the state file. Where -c
// says more than where the configuration is, the flag's annotation fromEnv forbids it.
func (e *env) configFromEnv(cmd *cobra.Command, _ []string) error {
	file, named := e.getenv("PENSTOCK_CONFIG"), cmd.Flags().Lookup("config")
	if state := cmd.Flags().Lookup("state"); file == "" || named == nil || named.Changed || state != nil && state.Changed || named.Annotations[fromEnv] != nil {
		return nil
	}
	return cmd.Flags().Set(named.Name, file)
}
