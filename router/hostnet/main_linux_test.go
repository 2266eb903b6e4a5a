package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"penstock/router/hostnet/internal/hosttest"
)

const childEnv = "PENSTOCK_HOSTNET_CHILD"

func TestMain(m *testing.M) {
	if do := os.Getenv(childEnv); do != "" {
		os.Exit(child(do))
	}
	goleak.VerifyTestMain(m)
}

func config(h *hosttest.Host) Config {
	return Config{Interface: "pen0", StateFile: h.StateFile(), ResolvConf: h.ResolvConf()}
}

// everything is settings that make every kind of change.
func everything() Settings {
	return Settings{
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("fd77::1/64")},
		MTU:       1400,
		Capture:   []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
		Exclude:   []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16")},
		LAN:       true,
		DNS:       []netip.Addr{netip.MustParseAddr("10.77.0.1")},
		Search:    []string{"corp.example"},
	}
}

// child is what the test binary does as a penstock that is killed: "apply N" and "close N" die at the
// N-th change, "hold" applies and waits to be killed.
func child(do string) int {
	what, n, _ := strings.Cut(do, " ")
	at, _ := strconv.Atoi(n)
	count := 0
	dying := func() {
		if count++; count == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	hook := func(change string) {
		if strings.HasPrefix(change, "make") == (what == "apply") {
			dying()
		}
	}
	dir := os.Getenv("PENSTOCK_HOSTNET_DIR")
	h := &hosttest.Host{Dir: dir}
	host, err := open(config(h), hook)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if err := host.Apply(context.Background(), everything()); err != nil {
		fmt.Println(err)
		return 1
	}
	if what == "hold" {
		fmt.Println("held")
		select {}
	}
	if err := host.Close(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// run runs a child and reports whether it was killed.
func run(t *testing.T, h *hosttest.Host, do string) (killed bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+do, "PENSTOCK_HOSTNET_DIR="+h.Dir)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("child %s: %v\n%s", do, err, out)
	}
	return false
}
