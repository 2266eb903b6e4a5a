package pipe

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func ends() (*Conn, *Conn) {
	return New(&net.TCPAddr{Port: 1}, &net.TCPAddr{Port: 2})
}

// TestBothWays: what one end writes the other reads, after a close for writing too, and then comes the end.
func TestBothWays(t *testing.T) {
	near, far := ends()
	near.Write([]byte("question"))
	near.CloseWrite()
	if _, err := near.Write([]byte("more")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write after CloseWrite: got %v, want %v", err, io.ErrClosedPipe)
	}
	if got, err := io.ReadAll(far); err != nil || string(got) != "question" {
		t.Errorf("got %q, %v, want question and the end", got, err)
	}
	far.Write([]byte("answer"))
	far.Close()
	if got, err := io.ReadAll(near); err != nil || string(got) != "answer" {
		t.Errorf("got %q, %v, want answer and the end", got, err)
	}
	if near.LocalAddr().String() != far.RemoteAddr().String() || near.RemoteAddr().String() != far.LocalAddr().String() {
		t.Errorf("addresses: %s to %s, and %s to %s", near.LocalAddr(), near.RemoteAddr(), far.LocalAddr(), far.RemoteAddr())
	}
}

// TestClose: who reads or writes hears of a close, on both ends.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := ends()
		errs := make(chan error, 3)
		go func() { _, err := far.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := near.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := far.Write(make([]byte, 2*pipeSize)); errs <- err }()
		synctest.Wait()
		near.Close()
		got := map[error]int{}
		for range 3 {
			got[<-errs]++
		}
		// The far end reads the end, its write breaks, and the near end's read broke or had got what was written.
		if got[io.EOF] != 1 || got[io.ErrClosedPipe]+got[nil] != 2 || got[io.ErrClosedPipe] < 1 {
			t.Errorf("got %v", got)
		}
	})
}

// TestDeadlines: a read and a write that wait end at their deadlines, also at ones that are set while they wait.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := ends()
		begun := time.Now()
		near.SetReadDeadline(begun.Add(time.Hour))
		errs := make(chan error)
		go func() { _, err := near.Read(make([]byte, 1)); errs <- err }()
		synctest.Wait()
		near.SetReadDeadline(begun.Add(time.Second))
		if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("read: got %v after %s, want %v after 1 s", err, time.Since(begun), os.ErrDeadlineExceeded)
		}
		near.SetDeadline(begun.Add(2 * time.Second))
		n, err := near.Write(make([]byte, pipeSize+1))
		if n != pipeSize || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: got %d, %v, want %d and %v", n, err, pipeSize, os.ErrDeadlineExceeded)
		}
		near.SetDeadline(time.Time{})
		go io.Copy(io.Discard, far)
		if _, err := near.Write(bytes.Repeat([]byte("x"), 3*pipeSize)); err != nil {
			t.Errorf("write without a deadline: got %v", err)
		}
		near.Close()
	})
}
