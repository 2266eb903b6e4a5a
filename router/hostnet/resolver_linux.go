package hostnet

import (
	"context"
	"fmt"
	"net/netip"

	"penstock/router/hostnet/internal/rtnl"
	"penstock/router/hostnet/resolver"
)

// resolvConf is resolv.conf as a change.
type resolvConf struct{ *resolver.File }

// resolvConfKey is the path.
type resolvConfKey string

func (r *resolvConf) stage() stage                { return stageResolver }
func (r *resolvConf) key() any                    { return resolvConfKey(r.Path) }
func (r *resolvConf) String() string              { return "resolver file " + r.Path }
func (r *resolvConf) present(*view) (bool, error) { return r.Present() }
func (r *resolvConf) make(*kernel) error          { return r.Write() }
func (r *resolvConf) undo(*kernel) error          { return r.Undo() }

func (r *resolvConf) adopt(earlier change) change {
	return &resolvConf{r.Adopt(earlier.(*resolvConf).File)}
}

// dispensable: questions are captured on their way to port 53, whichever server they are for.
func (r *resolvConf) dispensable(err error) bool { return resolver.IsFixed(err) }

// warning says what a file that cannot be changed means for the user.
func (r *resolvConf) warning(err error) error {
	return fmt.Errorf("%s stays as it is: %w. Programs go on asking the servers in it: penstock answers those questions where it "+
		"captures port 53, but the search domains of transports have no effect. Make the file writable (chattr -i, or a "+
		"read-write mount), or set listen.tun.dns to manual", r.Path, err)
}

// resolvedLink is our interface's settings in systemd-resolved as a change.
type resolvedLink struct{ *resolver.Link }

// resolvedKey is the interface.
type resolvedKey struct {
	name  string
	index int
}

func (r *resolvedLink) stage() stage                  { return stageResolver }
func (r *resolvedLink) key() any                      { return resolvedKey{r.Name, r.Index} }
func (r *resolvedLink) String() string                { return "systemd-resolved settings of " + r.Name }
func (r *resolvedLink) present(v *view) (bool, error) { return r.Present(v.resolved) }
func (r *resolvedLink) make(k *kernel) error          { return r.Set(k.resolved) }

// undo has nothing to do when the interface is gone: its settings went with it.
func (r *resolvedLink) undo(k *kernel) error {
	link, err := k.nl.LinkByIndex(r.Index)
	if rtnl.IsNotFound(err) || err == nil && link.Attrs().Name != r.Name {
		return nil
	}
	return r.Revert(k.resolved)
}

// OriginalResolvers returns the servers that the host asked before us, or would ask without us. It replaces a stub on this
// machine by the servers behind it. It never returns our own, and nothing if it knows none.
func (h *Host) OriginalResolvers(context.Context) ([]netip.Addr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	content, err := h.originalLocked()
	if err != nil {
		return nil, err
	}
	return resolver.Servers(h.kernel.resolved, content, h.kernel.indexOf(h.cfg.Interface), h.settings.DNS), nil
}

// indexOf returns the index of an interface, or 0 if it does not exist.
func (k *kernel) indexOf(name string) int {
	link, err := k.nl.LinkByName(name)
	if err != nil {
		return 0
	}
	return link.Attrs().Index
}

// OriginalSearchDomains returns the domains that completed short names before us, or would without us: those of the
// network that the host is in, if it has any.
func (h *Host) OriginalSearchDomains(context.Context) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	content, err := h.originalLocked()
	if err != nil {
		return nil, err
	}
	return resolver.SearchDomains(h.kernel.resolved, content, h.kernel.indexOf(h.cfg.Interface)), nil
}

// LAN returns the networks that Settings.LAN leaves to the host, by interface; none without it.
func (h *Host) LAN(context.Context) (map[string][]netip.Prefix, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	lan := make(map[string][]netip.Prefix)
	if !h.settings.LAN {
		return lan, nil
	}
	f, err := gather(newView(h.kernel), h.cfg.Interface)
	if err != nil {
		return nil, err
	}
	for _, n := range f.neighbours {
		name, known := f.names[n.index]
		if !known { // an interface that came while we looked
			continue
		}
		lan[name] = sorted(append(lan[name], connected([]netip.Prefix{n.prefix}, h.settings.Capture)...))
	}
	return lan, nil
}

// originalLocked returns the resolver file as it would be without us; nothing if that is not known.
func (h *Host) originalLocked() ([]byte, error) {
	if h.closed {
		return nil, ErrClosed
	}
	file, err := resolver.PlanFile(h.cfg.ResolvConf, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("hostnet: %w", err)
	}
	now := &resolvConf{file}
	if earlier := h.journal.find(now.key()); earlier != nil {
		now = now.adopt(earlier).(*resolvConf)
	}
	return now.Original(), nil
}
