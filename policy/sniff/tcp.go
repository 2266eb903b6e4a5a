package sniff

// TCP reads the name from all bytes of a TCP stream that the client has sent so far, of which it looks at the first
// MaxBytes. A Status other than NeedMore is final: more bytes don't change it.
func TCP(b []byte) Result {
	return Result{}
}
