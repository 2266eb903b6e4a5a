package sniff

// Initials reads the name from the datagrams that a client sends on one UDP flow, out of QUIC Initial packets. The zero
// value is ready.
type Initials struct{}

// Datagram reads the next datagram and says what is known of the flow's latest hello.
func (in *Initials) Datagram(b []byte) Result {
	return Result{}
}
