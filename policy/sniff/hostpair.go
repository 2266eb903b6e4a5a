package sniff

// hostPair holds the two places of an HTTP request that name a host.
type hostPair struct {
	target     Host // absolute target, authority of CONNECT, :authority
	field      Host // Host field
	targetKind hostKind
	fieldKind  hostKind
}

// result puts the target first: it is what a server has to go by (RFC 9112 3.2.2). Not all do, so that a Host field
// which differs is told as well.
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
