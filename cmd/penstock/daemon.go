package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/daemon"
	"penstock/cmd/internal/demo"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/handover"
	"penstock/cmd/internal/kernel"
	"penstock/cmd/internal/laptop"
	"penstock/cmd/internal/systemd"
	"penstock/e2e/netlab"
	"penstock/router/hostnet"
)

// withDaemon gives the commands that run something their functions.
func withDaemon(e *env) *env {
	e.run = func(ctx context.Context, cfg *config.Config, o runOptions) error {
		return daemon.Run(ctx, cfg, daemon.Options{
			Socket: o.Socket, Reload: o.Reload, Version: version(), Log: o.Logger, Notify: systemd.NewNotifier(), Sockets: o.Sockets,
			Good: o.Good, Fault: o.Fault,
		})
	}
	e.lockdown = laptop.Lockdown
	e.check = check
	e.cleanup, e.restore, e.lift, e.closed = hostnet.Cleanup, hostnet.Restore, hostnet.Lift, hostnet.IsClosed
	e.cleanupKernel = kernel.Cleanup
	e.demo = runDemo
	return e
}

// inherit takes the sockets that a service manager gives to this process.
func inherit(log *slog.Logger) *handover.Sockets {
	if n := systemd.NewNotifier(); n != nil {
		return handover.Inherit(n, log)
	}
	return handover.Inherit(nil, log)
}

// check compiles a configuration as run does, and tells what it found.
func check(ctx context.Context, cfg *config.Config) (checkReport, error) {
	ed, err := daemon.Check(ctx, cfg)
	found := checkReport{Rules: len(cfg.Rules), Tests: len(cfg.Tests)}
	if tests, ok := errors.AsType[*edition.TestsError](err); ok {
		for _, failed := range tests.Failed {
			found.Failed = append(found.Failed, failed.Error())
		}
		err = nil
	}
	if err == nil {
		found.Warnings, found.Files = ed.Warnings(), ed.Files()
	}
	return found, err
}

// runDemo runs the demo in namespaces of its own, where the machine has them.
func runDemo(ctx context.Context, o demoOptions) error {
	if o.Gateway != "" {
		return demo.RunGateway(ctx, o.Gateway, os.Stdin, slog.New(slog.NewTextHandler(o.Stderr, nil)))
	}
	run := demo.Run
	if o.Fleet {
		run = demo.RunFleet
	}
	var err error
	code := netlab.EnterServing(func(outside net.Listener) int {
		if err = run(ctx, demo.Options{Stay: o.Stay, Console: outside, Stdout: o.Stdout, Stderr: o.Stderr}); err != nil {
			return exitFailure
		}
		return exitOK
	})
	if err == nil && code != exitOK {
		return exitError{code: code} // the process in the namespaces has said why
	}
	return err
}
