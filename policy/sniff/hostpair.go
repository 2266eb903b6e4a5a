package sniff

// hostPair holds the two names that an HTTP request can carry.
type hostPair struct {
	target     Host // absolute target, authority of CONNECT, :authority
	field      Host // Host field
	targetKind hostKind
	fieldKind  hostKind
}

// result prefers the target, which servers must use (RFC 9112 3.2.2). Not all do, so it also returns a Host field that
// differs.
func (p *hostPair) result(protocol Protocol) Result {
	res := noName(protocol)
	switch {
	case p.targetKind == hostIllegal || p.fieldKind == hostIllegal:
		res.Ambiguous = true
	case p.targetKind == hostName:
		res.Status, res.Host = Found, p.target
		if p.field != p.target {
			res.Other = p.field
		}
	case p.fieldKind == hostName:
		res.Status, res.Host = Found, p.field
	}
	return res
}
