package demo

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if file := os.Args[len(os.Args)-1]; slices.Equal(os.Args[1:], GatewayArgs(file)) { // the demo of a fleet has started us
		if err := RunGateway(context.Background(), file, os.Stdin, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect")) // see package jetstream
}

func TestDemoOverMemoryGoesAsPromised(t *testing.T) {
	var out, progress bytes.Buffer
	if err := Run(t.Context(), Options{Memory: true, Stdout: &out, Stderr: &progress}); err != nil {
		t.Fatalf("%v\n%s\n%s", err, progress.String(), out.String())
	}
	if got, want := strings.Count(out.String(), "  ok\n"), len(rows()); got != want {
		t.Errorf("got %d rows as expected, want %d:\n%s", got, want, out.String())
	}
}
