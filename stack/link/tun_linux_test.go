package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain runs the tests again in a network namespace of their own, if it may have one. On the host's, each device that comes or goes
// would make a browser that another package tests give up what it is loading.
func TestMain(m *testing.M) {
	const inside = "PENSTOCK_LINK_INSIDE"
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // that its end does not end the child
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if cmd.Start() != nil {
		os.Exit(m.Run())
	}
	_ = cmd.Wait() // the exit code says it
	os.Exit(cmd.ProcessState.ExitCode())
}

// testTUN is a TUN in the network namespace of the test, or a reason to skip.
func testTUN(t *testing.T, c TUNConfig) *TUN {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make a TUN")
	}
	p, err := OpenTUN(c)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// readError waits until p's Read fails.
func readError(t *testing.T, p Port) error {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := p.Read([]Packet{{Data: make([]byte, MaxPacket)}}); err != nil {
				failed <- err
				return
			}
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-time.After(5 * time.Second):
		t.Fatal("a Read still blocks after 5 s")
		return nil
	}
}

func TestTUNThatIsDeletedIsGone(t *testing.T) {
	for _, row := range []struct {
		name      string
		noOffload bool
		up        bool
	}{
		{"with offloads", false, true},
		{"without offloads", true, true},
		{"that never came up", false, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := testTUN(t, TUNConfig{Name: "pentestgone%d", NoOffload: row.noOffload})
			if row.up {
				ip(t, "link", "set", p.Name(), "up")
			}
			time.AfterFunc(100*time.Millisecond, func() { ip(t, "link", "del", p.Name()) })
			if err := readError(t, p); !errors.Is(err, ErrGone) || isClosedError(err) {
				t.Errorf("got %v, want ErrGone", err)
			}
			if err := p.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

func TestTUNThatIsClosedSaysSo(t *testing.T) {
	for _, noOffload := range []bool{false, true} {
		p := testTUN(t, TUNConfig{Name: "pentestshut%d", NoOffload: noOffload})
		time.AfterFunc(50*time.Millisecond, func() { p.Close() })
		if err := readError(t, p); !isClosedError(err) {
			t.Errorf("without offloads %v: got %v, want net.ErrClosed or os.ErrClosed", noOffload, err)
		}
		if err := p.Write(Meta{}, [][]byte{make([]byte, 40)}); !isClosedError(err) {
			t.Errorf("without offloads %v: a write got %v, want net.ErrClosed or os.ErrClosed", noOffload, err)
		}
		if err := p.Close(); err != nil {
			t.Errorf("a second close: %v", err)
		}
	}
}

func TestTUNFollowsTheMTU(t *testing.T) {
	p := testTUN(t, TUNConfig{Name: "pentestmtu%d", MTU: 1400})
	if got := p.MTU(); got != 1400 {
		t.Fatalf("got MTU %d, want 1400", got)
	}
	ip(t, "link", "set", p.Name(), "mtu", "1300")
	for range 500 {
		if p.MTU() == 1300 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("got MTU %d after 5 s, want 1300", p.MTU())
}

func TestOpenTUNNamesTheMend(t *testing.T) {
	first := testTUN(t, TUNConfig{Name: "pentesttwo%d"})
	_, err := OpenTUN(TUNConfig{Name: first.Name()})
	if err == nil {
		t.Fatal("two devices of one name")
	}
	if got := err.Error(); !strings.Contains(got, "choose another name") {
		t.Errorf("got %q, want it to name the mend", got)
	}
}

func isClosedError(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed)
}

func ip(t *testing.T, args ...string) {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Errorf("ip %v: %v: %s", args, err, out)
	}
}

// Whoever gave a descriptor away may have it still, and make it one that blocks. A call that waits then must not stop the process with it.
// It would stop this one too, so another runs the test.
func TestADescriptorThatSomebodyMakesBlock(t *testing.T) {
	const inside = "PENSTOCK_TEST_BLOCKS"
	if os.Getenv(inside) == "" {
		testTUN(t, TUNConfig{}).Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v, %v: %s", err, ctx.Err(), out)
		}
		return
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	request, _ := unix.NewIfreq("pentestblock%d")
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	theirs, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(theirs)
	p := testTUN(t, TUNConfig{FD: fd, HasFD: true})
	if err := unix.SetNonblock(theirs, false); err != nil {
		t.Fatal(err)
	}
	_, err = unix.Preadv2(theirs, [][]byte{make([]byte, 1)}, -1, unix.RWF_NOWAIT)
	canClose := err == unix.EAGAIN // a kernel before 6.5 waits for a packet first
	ended := make(chan error, 1)
	go func() {
		_, err := p.Read([]Packet{{Data: make([]byte, MaxPacket)}})
		ended <- err
	}()
	for range 100 { // until it has begun
		runtime.GC() // stops all for a moment, and so never ends if one cannot be stopped
		time.Sleep(time.Millisecond)
	}
	if !canClose {
		return
	}
	if err := p.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-ended; !isClosedError(err) {
		t.Errorf("read: got %v, want it closed", err)
	}
}

func TestAMissingTUNDeviceNamesTheMend(t *testing.T) {
	there := filepath.Join(t.TempDir(), "tun")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		device string
		err    error
		want   string
	}{
		{filepath.Join(filepath.Dir(there), "missing"), errors.New("CreateTUN failed"), "--device"},
		{there, fmt.Errorf("open: %w", unix.ENODEV), "modprobe tun"},
		{there, unix.EPERM, "CAP_NET_ADMIN"},
	} {
		if got := notCreated("pen0", row.device, row.err).Error(); !strings.Contains(got, row.want) {
			t.Errorf("%v: got %q, want it to name %s", row.err, got, row.want)
		}
	}
}
