// Package program finds the program on this machine that sends a flow: its user, its control group and its executable.
//
// The kernel knows the user and, since Linux 5.7, the control group of a socket, and tells anybody. Which program holds a socket is
// written in /proc alone, which has to be searched. The search needs the right to see other users' processes (CAP_SYS_PTRACE and
// CAP_DAC_READ_SEARCH), and all who wait share one. Linux only: elsewhere Find returns errors.ErrUnsupported.
//
// The package does not watch sockets: an answer is true at the moment of the question only.
package program

// Program is the sender of a flow, as far as it was asked for and found.
type Program struct {
	UID     uint32 // owner of the socket
	Group   Group  // control group in which the socket was made or, if the kernel does not tell, that of the program
	Path    string // of the program that holds the socket, in the program's own mount namespace
	Deleted bool   // another file has taken the place of that program's, or none
	Several bool   // other programs hold the socket too; Path is that of the one that began first
}

// Want says what to look for besides the user.
type Want struct {
	Group bool
	Path  bool
}
