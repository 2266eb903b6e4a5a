package systemd

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
)

// Keep has the service manager keep a duplicate of a socket under a name without colons, and give it to the process that it starts in
// place of this one. It refuses more than FileDescriptorStoreMax= of them without a word to us, and forgets all when the service is
// stopped.
func (n *Notifier) Keep(name string, fd uintptr) error {
	// Not polled: an error that waits on a socket, such as an ICMP message about an answer, would end it.
	return sendWith(int(fd), "FDSTORE=1", "FDNAME="+name, "FDPOLL=0")
}

// Drop has the service manager close what it keeps under a name. It does so in its own time.
func (n *Notifier) Drop(name string) error {
	return sendWith(-1, "FDSTOREREMOVE=1", "FDNAME="+name)
}

// sendWith sends lines in one datagram, with a descriptor if it is not negative. go-systemd sends none.
func sendWith(fd int, lines ...string) error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	var rights []byte
	if fd >= 0 {
		rights = syscall.UnixRights(fd)
	}
	raw, err := c.SyscallConn() // WriteMsgUnix wants a socket that is not connected
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(to uintptr) bool {
		failed = syscall.Sendmsg(int(to), []byte(strings.Join(lines, "\n")), rights, nil, 0)
		return !errors.Is(failed, syscall.EAGAIN)
	})
	return errors.Join(err, failed)
}
