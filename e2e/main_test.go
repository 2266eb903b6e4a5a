// Package e2e proves penstock from outside: it builds the binary, runs it as laptop and as gateway in a lab of network
// namespaces, and talks through it with the programs that people use.
//
// It knows nothing of the product but its command line, its files and its ports, and measures no speed.
package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"penstock/e2e/netlab"
	"penstock/e2e/netlab/netlabtest"
)

// binaries names the directory with penstock, wireguard, nats-server and pebble that tests run. Who may not build here (another user than
// the source's) sets it; otherwise all are built first, and it is set by TestMain.
const binaries = "PENSTOCK_E2E_BINARIES"

func TestMain(m *testing.M) {
	os.Exit(netlab.Enter(func() int {
		code, err := buildAndRun(m)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}))
}

// buildAndRun builds the binaries, unless they are there, and runs the tests.
func buildAndRun(m *testing.M) (code int, err error) {
	if err := waitTogether(); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "penstock-e2e-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state")); err != nil {
		return 0, err
	}
	if os.Getenv(binaries) != "" {
		return m.Run(), nil
	}
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", dir+string(filepath.Separator), "penstock/cmd/penstock", "golang.zx2c4.com/wireguard", "github.com/nats-io/nats-server/v2", "github.com/letsencrypt/pebble/v2/cmd/pebble")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released: an image has no libraries
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build penstock, wireguard-go, nats-server and pebble: %w\n%s", err, out)
	}
	if err := os.Setenv(binaries, dir); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// waitTogether lets more tests run at a time than there are cores, unless the command line says how many: for two thirds of their time
// they wait.
func waitTogether() error {
	flag.Parse()
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if said {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
}

// built is the path of a program that was built.
func built(name string) string { return filepath.Join(os.Getenv(binaries), name) }

// program is the path of one that must be installed; the test is skipped where it is not.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("PENSTOCK_REQUIRE_NETNS") == "1":
		t.Fatalf("PENSTOCK_REQUIRE_NETNS=1: %v", err)
	default:
		t.Skipf("needs %s: %v", name, err)
	}
	return path
}

// needsOthers skips a test that gives files to other users, where there are none: an ordinary user's namespace has its own alone.
func needsOthers(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(file, 65534, 65534); err != nil {
		if os.Getenv("PENSTOCK_REQUIRE_NETNS") == "1" {
			t.Fatalf("PENSTOCK_REQUIRE_NETNS=1: %v", err)
		}
		t.Skipf("only root can give files to other users: %v", err)
	}
}

// newLab is a lab of the test's own.
func newLab(t *testing.T) *netlab.Lab {
	t.Helper()
	return netlabtest.New(t, netlab.Options{})
}
