package report

import (
	"context"
	"log/slog"
	"net/netip"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/lists"
	"penstock/policy"
)

// Lists reports the state of the category lists.
type Lists struct {
	Live *edition.Live
	Log  *slog.Logger
}

// Lists returns the current lists.
func (l *Lists) Lists(context.Context) ([]control.ListStatus, error) {
	var list []control.ListStatus
	for _, s := range l.Live.ListStatus() {
		status := control.ListStatus{Category: s.Category, List: s.List, Entries: s.Entries, Updated: s.Updated, Next: s.Next}
		if s.Err != nil {
			status.Error = s.Err.Error()
		}
		list = append(list, status)
	}
	return list, nil
}

// ListLookup finds the entries for a name in the current lists.
func (l *Lists) ListLookup(_ context.Context, name string) ([]control.ListHit, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		return find(l.Live.Now().Lists, addr.Unmap().WithZone("").String(), l.Log), nil
	}
	host, err := policy.CanonicalName(name)
	if err != nil {
		return nil, err
	}
	return find(l.Live.Now().Lists, host, l.Log), nil
}

// ListRefresh fetches newer versions of all lists now.
func (l *Lists) ListRefresh(ctx context.Context) error { return l.Live.Lists.Refresh(ctx) }

// find finds a name or an address in lists.
func find(content *lists.Content, host string, log *slog.Logger) []control.ListHit {
	found, err := content.Find(host)
	if err != nil {
		log.Warn("could not reread a list", "err", err)
	}
	hits := make([]control.ListHit, 0, len(found))
	for _, h := range found {
		hits = append(hits, control.ListHit{Category: h.Category, List: h.List, Line: h.Line, Entry: h.Text, Allow: h.Allow})
	}
	return hits
}
