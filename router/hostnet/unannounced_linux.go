package hostnet

import (
	"os"
	"syscall"
)

// unannounced is what a plan depends on and the kernel sends no events about. Reading it costs little, where a look at
// everything allocates hundreds of kilobytes. It is comparable: another value means that something has changed.
type unannounced struct {
	arpIgnore, srcValidMark, reverse string // of all interfaces
	ipv6Off                          string // on our TUN
	forward4, forward6               string // of all interfaces
	resolvConf, target               fileState
}

// fileState is how a file was. The zero value is one that cannot be looked at.
type fileState struct {
	device, inode uint64
	size          int64
	changed       syscall.Timespec // also after a change of owner or mode
}

func lookUnannounced(cfg Config, applied []change) unannounced {
	u := unannounced{
		arpIgnore:    sysctlOrEmpty(arpIgnore),
		srcValidMark: sysctlOrEmpty(srcValidMark),
		reverse:      sysctlOrEmpty("net/ipv4/conf/all/rp_filter"),
		ipv6Off:      sysctlOrEmpty("net/ipv6/conf/" + cfg.Interface + "/disable_ipv6"),
		forward4:     sysctlOrEmpty(allForward4),
		forward6:     sysctlOrEmpty(allForward6),
		resolvConf:   stateOf(os.Lstat(cfg.ResolvConf)),
	}
	for _, c := range applied {
		if r, ok := c.(*resolvConf); ok && r.Link != "" { // its owner goes on writing to the target
			u.target = stateOf(os.Stat(r.Target()))
		}
	}
	return u
}

func stateOf(info os.FileInfo, err error) fileState {
	if err != nil {
		return fileState{}
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileState{}
	}
	return fileState{uint64(s.Dev), s.Ino, s.Size, s.Ctim}
}

// asUsual reports whether nothing that has no events has changed since the last look at everything, and nothing is left to
// be put back.
func (h *Host) asUsual() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.failing) > 0 || lookUnannounced(h.cfg, h.applied) != h.usual {
		return false
	}
	for _, c := range h.applied {
		if r, ok := c.(*resolvedLink); ok { // systemd-resolved announces only that it starts or stops
			there, err := r.Present(h.kernel.resolved)
			return err == nil && there
		}
	}
	return true
}
