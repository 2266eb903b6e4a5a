package hostnet

import (
	"log/slog"
	"net/netip"
)

// DialerConfig says what a [Dialer] must stay out of.
type DialerConfig struct {
	// Interface is the name of our TUN; a dial whose route leaves by it is refused. "" if there is none.
	Interface string
	// Prefixes are those of our TUN: a destination in them is refused.
	Prefixes []netip.Prefix
	// Mark and MarkMask as in Config. Both zero: DefaultMark, DefaultMarkMask.
	Mark, MarkMask uint32
	// Log may be nil.
	Log *slog.Logger
}
