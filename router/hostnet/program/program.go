// Package program finds the program on this machine that sends a flow.
//
// It does not watch sockets: an answer is true at the moment of the question only. Linux only: elsewhere Find returns
// errors.ErrUnsupported.
package program

// Program is the sender of a flow.
type Program struct {
	UID  uint32 // owner of the socket
	Path string // of the program that holds it; empty if it was not asked for or is not visible to us
}
