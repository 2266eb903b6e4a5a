package peerbook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"penstock/cmd/internal/config"
)

// liveWait is how long a running gateway waits for a command that changes peers.
const liveWait = 10 * time.Second

// Gateway is the running gateway.
type Gateway interface {
	// Config returns the configuration in force.
	Config() *config.Config
	// Read puts in force what the files of peers say.
	Read(context.Context) error
}

// OpenLive locks the folder of peers for a running gateway, and reads what it holds by now. Other files count as they are in force.
func OpenLive(ctx context.Context, c *config.Config, name string) (*Folder, *config.Config, error) {
	if Path(c, name) == "" {
		return nil, nil, c.Err("include", "there is no folder for the files of those who join", "add include: peers.d/*.yaml")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, liveWait, errors.New("a command that changes peers holds it"))
	defer cancel()
	folder, err := Open(ctx, c, name)
	if err != nil {
		return nil, nil, err
	}
	folder.PeersOnly = true
	if c, err = c.ReloadPeers(); err != nil {
		folder.Close()
		return nil, nil, err
	}
	return folder, c, nil
}

// Access is whether a peer may connect, and until when.
type Access struct {
	Disabled bool
	Expires  *time.Time // nil: as it is; the zero time: never
}

// Give gives a peer access, or takes it away. It says what it did, or what the peer was already.
func (a Access) Give(p *config.Peer, now time.Time) (did, already string, err error) {
	before := *p
	p.Disabled, did = a.Disabled, "enabled"
	if a.Expires != nil {
		p.Expires, did = *a.Expires, "enabled until "+a.Expires.Local().Format(time.DateTime)
		if p.Expires.IsZero() {
			did = "enabled for good"
		}
	}
	switch {
	case p.Disabled:
		did = "disabled"
	case p.State(now) == "expired":
		return "", "", fmt.Errorf("peer %s expired at %s: give it more time with --expires", p.Name, p.Expires.Local().Format(time.DateTime))
	}
	if p.Disabled == before.Disabled && a.Expires == nil {
		return "", did + " already", nil
	}
	return did, "", nil
}

// SetAccess gives a peer of a running gateway access, or takes it away, and puts that in force.
func SetAccess(ctx context.Context, g Gateway, name string, a Access) error {
	folder, c, err := OpenLive(ctx, g.Config(), name)
	if err != nil {
		return unwritable(err)
	}
	defer folder.Close()
	p, path, err := folder.Own(c, name)
	if err != nil {
		return err
	}
	if _, already, err := a.Give(&p, time.Now()); err != nil || already != "" {
		return err
	}
	if err := folder.Replace(c, path, p); err != nil {
		return unwritable(err)
	}
	return g.Read(ctx)
}

// unwritable says what to do if the gateway may not write the files of peers.
func unwritable(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) { // a service sees other folders as read-only
		return fmt.Errorf("the running gateway cannot write the files of peers: give the folder to its user and let its service write there, "+
			"or use penstock peer disable and penstock peer enable: %w", err)
	}
	return err
}
