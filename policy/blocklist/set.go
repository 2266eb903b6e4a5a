package blocklist

import "net/netip"

// CategorySet is a set of categories of one Set: bit i stands for the i-th of Set.Categories.
type CategorySet uint64

// Set says which categories a name is in. It is immutable and safe for concurrent use; a nil Set holds nothing.
type Set struct {
	categories []string
}

// Categories returns the names of the categories in bit order. The caller must not change them.
func (s *Set) Categories() []string { return nil }

// Lookup returns the categories of a canonical host name. It does not allocate.
func (s *Set) Lookup(host string) CategorySet { return 0 }

// LookupWire is Lookup for an uncompressed DNS wire name of any case. A malformed name is in no category.
func (s *Set) LookupWire(wire []byte) CategorySet { return 0 }

// LookupAddr returns the categories of an address that stands among the names of a list.
func (s *Set) LookupAddr(addr netip.Addr) CategorySet { return 0 }
