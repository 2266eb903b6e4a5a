//go:build unix

package flowlog

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func mkfifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "flows.pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAPipeWithoutAReaderHoldsNobodyUp(t *testing.T) {
	path := mkfifo(t)
	var l fixture
	returns("Open", func() { l = open1(t, Config{File: path}, nil) })
	l.Flow(flow(1))
	eventually(t, "the record is counted as lost", func() bool { return l.lost() == 1 })

	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	time.Sleep(reopenPause) // after that it looks again
	l.Flow(flow(2))
	if err := reader.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(reader).ReadString('\n')
	for end := time.Now().Add(5 * time.Second); line == "" && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		line, err = bufio.NewReader(reader).ReadString('\n') // until the writer has opened its end
	}
	if err != nil || !strings.Contains(line, `"flow_id":"2"`) {
		t.Errorf("got %q, %v, want flow 2 once somebody reads", line, err)
	}
	returns("Close", l.Close)
}

func TestAReaderThatStopsReadingHoldsNobodyUp(t *testing.T) {
	path := mkfifo(t)
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	l := open1(t, Config{File: path}, nil)
	const n = 20000 // some 8 MB; a pipe holds 64 KiB
	returns("writing", func() {
		for i := range n {
			l.Flow(flow(i))
		}
	})
	if l.lost() == 0 {
		t.Error("got none lost, want what does not fit")
	}
	returns("Close", l.Close)
	if got := l.lost(); got < n-1000 || got > n {
		t.Errorf("got %d lost, want all but what is in the pipe, about %d", got, n-160)
	}
}

func TestAReaderThatLeavesAndComesBack(t *testing.T) {
	path := mkfifo(t)
	open := func() *os.File {
		reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		return reader
	}
	first := open()
	l := open1(t, Config{File: path}, nil)
	first.Close()
	eventually(t, "a record is lost while nobody reads", func() bool {
		l.Flow(flow(1))
		return l.lost() > 0
	})
	second := open()
	defer second.Close()
	buf := make([]byte, 4096)
	eventually(t, "the new reader gets records", func() bool {
		l.Flow(flow(2))
		_ = second.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		n, _ := second.Read(buf)
		return strings.Contains(string(buf[:n]), `"flow_id":"2"`)
	})
}

func TestASocketIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if l, err := Open(Config{File: path}); err == nil {
		l.Close()
		t.Error("got no error, want one")
	}
}

func TestAFullDeviceCountsEveryRecord(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full here")
	}
	l := open1(t, Config{File: "/dev/full", MaxSize: 4096, Keep: 1}, nil)
	for i := range 100 {
		l.Flow(flow(i))
	}
	l.Close()
	if got := l.lost(); got != 100 {
		t.Errorf("got %d lost, want all 100", got)
	}
	if info, err := os.Stat("/dev/full"); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		t.Fatalf("/dev/full is gone: %v, %v", info, err)
	}
	if got := strings.Count(l.said.String(), "no space left"); got != 1 {
		t.Errorf("got %d warnings, want one:\n%s", got, l.said)
	}
}

// TestALogThatIsMovedAwayBeginsAnew is logrotate, and an operator who cleans up. Windows lets nobody do either.
func TestALogThatIsMovedAwayBeginsAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := open1(t, Config{File: filepath.Join(dir, "flows.json")}, nil)
	id := 0
	written := func() bool {
		id++
		l.Flow(flow(id))
		_, err := os.Stat(l.path)
		return err == nil
	}
	eventually(t, "the log is written", written)
	if err := os.Rename(l.path, l.path+".old"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a log that was renamed begins anew", written)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "records without a directory are counted as lost", func() bool { written(); return l.lost() > 0 })
	if !strings.Contains(l.said.String(), "cannot be written") {
		t.Errorf("got %q, want a warning", l.said.String())
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log is back with its directory", written)
}
