// Command penstock runs a VPN endpoint that judges every flow, and talks to one that runs.
//
// It reads command lines, prints results and chooses exit codes. What a running penstock does is in cmd/internal/daemon.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, withDaemon(newEnv()), os.Args[1:])
	stop()
	os.Exit(code)
}
