package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"penstock/cmd/internal/config"
)

// TestMain makes penstock a command of the scripts: the real command line and the real check, with a daemon that only says
// what it was asked for.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"penstock": func() {
			e := newEnv()
			e.open = func(context.Context, string) error { return errors.New("no browser here") }
			e.run = func(_ context.Context, c *config.Config, o runOptions) error {
				o.Logger.Info("run", "config", c.Path, "socket", o.Socket)
				if c.Listen.WireGuard != nil {
					return c.Err("listen.wireguard.listen_port", "port 51820 is in use", "stop what uses it, or choose another")
				}
				return os.ErrPermission
			}
			e.check = check
			os.Exit(execute(context.Background(), e, os.Args[1:]))
		},
	})
}

// TestScripts runs the command line. Each script has a fake daemon at $PENSTOCK_SOCKET.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			socket := filepath.Join(env.WorkDir, "run", "control.sock")
			env.Setenv("PENSTOCK_SOCKET", socket)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector would rest for a second after each command
			return serveFake(env, socket)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
		},
	})
}

// exits runs a command and wants its exit code: exits CODE penstock ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		code = strconv.Itoa(exit.ExitCode())
	}
	if code != args[0] {
		ts.Fatalf("got exit code %s (%v), want %s", code, err, args[0])
	}
}
