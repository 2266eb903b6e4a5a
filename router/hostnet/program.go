package hostnet

// Program is who sends from a socket of this machine.
type Program struct {
	UID  uint32 // owner of the socket
	Path string // of the program that holds it; empty if it was not asked for or may not be seen
}
